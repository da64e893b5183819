// y = g (x W^T + s (x A^T) B^T) + bias for up to 16 rows of x: a decoding step of generation. One
// launch reads each code of W once, and no time but that of reading them should show.
//
// The walk of a weight. A warp owns a strip of 32 rows of W and a share of the columns. Lane 4 g +
// t loads 16 bytes of rows g, g + 8, g + 16 and g + 24, two steps ahead of their use: 32 codes
// each. A byte is two codes of neighbouring columns; a table in shared memory has the pair of
// values of every byte, 16 bits each, once for each bank. A row of it is 256 bytes long, so that
// one permute, which puts the byte beside the lane's bank, is the address, and one load without
// conflicts the register that the matrix instruction takes. W is its left operand. A sum does not
// care for the order of columns: so long as x comes in the same order, each lane may bring the
// columns that it happens to have, and nothing is shuffled, here or when W was stored.
//
// Scales. A quad's 64 bytes of a row are two blocks of 64, and a sum over the quad must not mix
// them. The right operand has room for eight rows of x: rows 0 to 3 of them stand there twice, once
// with zeros for the second block's columns and once for the first's. So the sums of each block
// come out apart, and float32 scales multiply those, once per 64 columns: exact, and cheaper than
// scaling weights. Scales of 16 blocks at a time are decoded into shared memory beforehand (nested
// or not), and the loop reads four of them at once. int8 has one block in a quad's 64 bytes, eight
// rows of x, and bytes placed into a float's bits instead of a table.
//
// The budget (H100: memory delivers 13 bytes, or 25 weights, a clock to each multiprocessor, which
// issues 128 lanes' instructions). Eight weights take four permutes, four look-ups, one matrix
// instruction and a share of the loop: 12 x 25 / 8 = 38 of 128 lanes, and 4 x 25 / 8 = 13 of the 32
// lanes that shared memory serves. Decoding by register permutes alone (26 instructions, two thirds
// of them on half the lanes) would already stand beside the limit. bench/compile_gate counts it.
//
// Narrow layers. A thread block is eight warps: `strips` side by side, and as many slices of
// columns as remain; `splits` thread blocks share the columns of a group of strips. Their sums meet
// in a workspace, where the last to arrive adds them in order: the bits never depend on the
// schedule.
//
// The adapter. x A^T is needed by every row of y and takes all of x: a dependency across the grid,
// but no reason to wait. The first `shares` thread blocks each sum a share of its columns while
// their first codes are on the way; the last of them adds the shares up and arrives at every group
// of strips, just as the thread blocks of a group do. Whoever arrives last finishes the group:
// B, output scale, bias. Nobody spins, so nothing must be resident together.
#include "arrivals.h"
#include "few_rows_float.h"
#include "few_rows_scalar.h"
#include "few_rows_tensor.h"
#include "launch.h"
#include "low_rank.h"
#include "shared.h"

namespace qlora::cuda {
namespace {

__device__ __forceinline__ int64_t rows_of_group(const LinearTask& task) {
  return task.plan.strips * STRIP;
}

// y = g (sum + h B^T) + bias, for row `token` of x and row `row` of W.
template <class Element>
__device__ void write(const LinearTask& task, int64_t token, int64_t row, float sum) {
  const AdapterView& adapter = task.adapter;
  for (int64_t r = 0; r < adapter.rank; ++r) {
    const float b = element(adapter.b, row * adapter.b.stride + r);
    sum = __fmaf_rn(task.workspace.h[token * adapter.rank + r], b, sum);
  }
  if (task.output_scale != nullptr) sum *= task.output_scale[row];
  if (task.bias.data != nullptr) sum += element(task.bias, row);
  static_cast<Element*>(task.y.data)[token * task.weight.n + row] = from_float<Element>(sum);
}

// Adds the splits of a group up and writes its part of y.
template <class Element>
__device__ void finish(const LinearTask& task, int64_t group) {
  const int64_t rows = rows_of_group(task), size = task.x.rows * rows;
  const float* sums = task.workspace.sums + group * task.plan.splits * size;
  for (int64_t place = threadIdx.x; place < size; place += THREADS) {
    const int64_t row = group * rows + place % rows;
    if (row >= task.weight.n) continue;
    float sum = 0;
    for (int64_t split = 0; split < task.plan.splits; ++split) sum += sums[split * size + place];
    write<Element>(task, place / rows, row, sum);
  }
}

__device__ __forceinline__ uint32_t expected_arrivals(const LinearTask& task) {
  return static_cast<uint32_t>(task.plan.splits + (task.adapter.rank > 0));
}

// The share of x A^T that is this thread block's, and for the last of them all that waits for it.
template <class Element>
__device__ void sum_low_rank(const LinearTask& task, int64_t block, int64_t groups) {
  if (block >= task.plan.shares) return;
  sum_share<Element>(task, block);
  uint32_t* const arrivals = task.workspace.arrivals;
  if (!arrives_last(arrivals, static_cast<uint32_t>(task.plan.shares))) return;
  add_shares(task);
  __threadfence();
  __syncthreads();
  const uint32_t last = expected_arrivals(task) - 1;
  for (int64_t first = 0; first < groups; first += THREADS) {
    const int64_t group = first + threadIdx.x;
    const bool is_ready = group < groups && atomicInc(arrivals + 1 + group, last) == last;
    if (!__syncthreads_or(is_ready)) continue;
    __threadfence();
    for (int64_t i = 0; i < THREADS; ++i) {
      if (__syncthreads_or(is_ready && threadIdx.x == i)) finish<Element>(task, first + i);
    }
  }
}

// A warp's part of all steps of columns.
__device__ Share share_of(const LinearTask& task, int steps, int split, int slice) {
  const int slices = NUM_WARPS / task.plan.strips, parts = slices * task.plan.splits;
  const int part = split * slices + slice;
  return {steps * part / parts, steps * (part + 1) / parts};
}

// The slices of this thread block, added in order: into y where nothing else is missing, else into
// the workspace; whoever completes the group finishes it.
template <class Element, class Walk>
__device__ void add_slices(const LinearTask& task, const Walk& walk, int64_t group, int64_t split) {
  const int64_t strips = task.plan.strips, rows = rows_of_group(task), size = task.x.rows * rows;
  const bool is_whole = expected_arrivals(task) == 1;
  for (int64_t place = threadIdx.x; place < size; place += THREADS) {
    const int64_t token = place / rows, own = place % rows, row = group * rows + own;
    float sum = 0;
    for (int64_t warp = own / STRIP; warp < NUM_WARPS; warp += strips) {
      sum += walk.sums_of(static_cast<int>(warp), static_cast<int>(token))[own % STRIP];
    }
    if (!is_whole) {
      task.workspace.sums[(group * task.plan.splits + split) * size + place] = sum;
    } else if (row < task.weight.n) {
      write<Element>(task, token, row, sum);
    }
  }
  if (!is_whole && arrives_last(task.workspace.arrivals + 1 + group, expected_arrivals(task))) {
    finish<Element>(task, group);
  }
}

template <class Element, class Walk>
__global__ void __launch_bounds__(THREADS, Walk::BLOCKS_PER_MULTIPROCESSOR)
    qlora_linear_kernel(const __grid_constant__ LinearTask task) {
  const int group = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
  const int strips = task.plan.strips, warp = warp_of_block();
  const int64_t row = int64_t{group * strips + warp % strips} * STRIP;
  const int steps = static_cast<int>((task.weight.k + Walk::STEP - 1) / Walk::STEP);
  Walk walk(task, row, share_of(task, steps, split, warp / strips));
  walk.prepare();
  sum_low_rank<Element>(task, split * gridDim.x + group, gridDim.x);
  __syncthreads();
  walk.walk();
  __syncthreads();
  add_slices<Element>(task, walk, group, split);
}

template <class Element, class Walk>
void launch_walk(const LinearTask& task, cudaStream_t stream) {
  const int64_t rows = task.plan.strips * STRIP;
  const dim3 grid(static_cast<unsigned>((task.weight.n + rows - 1) / rows),
                  static_cast<unsigned>(task.plan.splits));
  launch({"qlora_linear", grid, dim3(THREADS), Walk::SHARED_BYTES, stream},
         qlora_linear_kernel<Element, Walk>, task);
}

// As few tiles as hold the rows of x.
template <class Element, class Codes>
void launch_tiles(const LinearTask& task, cudaStream_t stream) {
  constexpr int TOKENS = TensorWalk<Element, Codes, 1>::TOKENS;
  if (task.x.rows <= TOKENS) {
    launch_walk<Element, TensorWalk<Element, Codes, 1>>(task, stream);
  } else if (task.x.rows <= 2 * TOKENS) {
    launch_walk<Element, TensorWalk<Element, Codes, 2>>(task, stream);
  } else if constexpr (4 * TOKENS <= LINEAR_MAX_ROWS) {
    launch_walk<Element, TensorWalk<Element, Codes, 4>>(task, stream);
  }
}

// As few sums as hold the rows of x.
template <class Codes>
void launch_floats(const LinearTask& task, cudaStream_t stream) {
  if (task.x.rows == 1) return launch_walk<float, FloatWalk<Codes, 1>>(task, stream);
  if (task.x.rows <= 4) return launch_walk<float, FloatWalk<Codes, 4>>(task, stream);
  if (task.x.rows <= 8) return launch_walk<float, FloatWalk<Codes, 8>>(task, stream);
  launch_walk<float, FloatWalk<Codes, LINEAR_MAX_ROWS>>(task, stream);
}

bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % sizeof(uint4) == 0;
}

// Whole walks read 16 bytes at a time, and one scale for 64 columns.
bool has_whole_blocks(const LinearTask& task) {
  return task.weight.k % SCALED_COLUMNS == 0 && (1 << task.weight.block_shift) >= SCALED_COLUMNS &&
         is_aligned(task.x.data) && is_aligned(task.weight.codes);
}

}  // namespace

void qlora_linear(const LinearTask& task, cudaStream_t stream) {
  if (task.plan.is_whole && !has_whole_blocks(task)) {
    throw std::invalid_argument(
        "qlora_linear: a plan of whole steps should have aligned x, aligned codes and whole blocks "
        "of 64 columns, had others");
  }
  dispatch(task.x.type, [&](auto* tag) {
    using Element = std::remove_pointer_t<decltype(tag)>;
    if (!task.plan.is_whole) return launch_walk<Element, ScalarWalk<Element>>(task, stream);
    if constexpr (std::is_same_v<Element, float>) {
      task.weight.is_int8 ? launch_floats<FloatBytes>(task, stream)
                          : launch_floats<FloatNibbles>(task, stream);
    } else {
      task.weight.is_int8 ? launch_tiles<Element, Bytes>(task, stream)
                          : launch_tiles<Element, Nibbles>(task, stream);
    }
  });
}

}  // namespace qlora::cuda
