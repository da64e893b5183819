// One step of AdamW for all parameters in one launch: any dtypes, 32-bit and 8-bit states, masters.
//
// Blocks of 256 elements are independent, and a warp has one at a time: eight neighbouring elements
// a lane, decoded, updated and encoded again in registers; the largest moment is found by shuffles,
// without a barrier. All blocks of all segments are one row of numbers. A warp has a contiguous run
// of them, so that it looks for its segment once and then walks on. Where a segment's gradients are
// of its parameter's type, whole aligned blocks take a loop compiled for that kind, which asks for
// all that it reads at once; the others, and every tail, take a loop that decides as it goes.
//
// The guard. Unscaling, clipping and the non-finite check need the norm of all gradients before any
// element may change: a dependency across the grid, in which every thread block is needed on both
// sides, so that whoever comes last cannot do the rest alone. The grid is persistent anyway, two
// thread blocks a multiprocessor; launched as a cooperative one it is resident as a whole, or
// refused by CUDA, never hung. So each warp first sums the squares of the run that it will update
// (float64, in which squares of float32 neither overflow nor lose), the blocks' sums meet, each
// block adds all of them in the order of their numbers, and goes on. The bits depend on no
// schedule, CUDA graphs can hold it, and nobody waits for the host. Without a guard there is no
// first phase, no barrier, and the launch is an ordinary one.
//
// The arithmetic is the reference's, operation by operation: the bits are the same as on the CPU.
//
// A code is found by two look-ups. A float's upper bits name a cell so narrow that at most one
// threshold lies in it: the cell's first code, plus one if the value is above that code's
// threshold. A search would take eight dependent ones. At ten bytes an element, an H100's memory
// leaves a lane time for a hundred instructions; bench/compile_gate counts them.
#include "adamw8bit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "adamw_block.h"
#include "arrivals.h"
#include "launch.h"
#include "shared.h"

namespace qlora::cuda {
namespace {

constexpr int NUM_WARPS = 8, THREADS = NUM_WARPS * WARP;
constexpr int RESIDENT = 2;  // thread blocks of a multiprocessor
constexpr double MOST = std::numeric_limits<double>::max();
constexpr double CLIP_EPSILON = 1e-6;  // as torch.nn.utils.clip_grad_norm_

// The last segment that starts at or before a block.
__device__ int64_t segment_of(const AdamWTask& task, int64_t block) {
  int64_t low = 0, high = task.num_segments;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (task.segments[middle].first_block <= block ? low : high) = middle;
  }
  return low;
}

__device__ __forceinline__ int64_t num_blocks_of(const AdamWSegment& segment) {
  return (segment.size + STATE_BLOCK - 1) / STATE_BLOCK;
}

// Calls body(segment's number, its first block and the one after the last) for this warp's run.
template <class Body>
__device__ __forceinline__ void walk(const AdamWTask& task, const Body& body) {
  const int64_t warps = int64_t{gridDim.x} * NUM_WARPS;
  const int64_t warp = int64_t{blockIdx.x} * NUM_WARPS + threadIdx.x / WARP;
  const int64_t end = task.num_blocks * (warp + 1) / warps;
  int64_t block = task.num_blocks * warp / warps;
  for (int64_t index = segment_of(task, block); block < end; ++index) {
    const AdamWSegment& segment = task.segments[index];
    const int64_t stop = min(end, segment.first_block + num_blocks_of(segment));
    if (block >= stop) continue;
    body(index, block - segment.first_block, stop - segment.first_block);
    block = stop;
  }
}

struct Shared {
  StateTables tables;
  double squares[NUM_WARPS];
  float scale, skip;
};

__device__ __forceinline__ double sum_of_warp(double value) {
#pragma unroll
  for (int other = WARP / 2; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
  return value;
}

// The squares of this warp's run of gradients.
__device__ double sum_squares(const AdamWTask& task) {
  double sum = 0;
  walk(task, [&](int64_t index, int64_t block, int64_t end) {
    const AdamWSegment segment = task.segments[index];
    with_type(AnyKind(segment).gradient, [&](auto tag) {
#pragma unroll 4
      for (int64_t own = block; own < end; ++own) {
        const int64_t first = own * STATE_BLOCK + int64_t{threadIdx.x % WARP} * OWN;
        const auto group =
            load_group<decltype(tag)>(segment.gradient, AnyKind::place(segment, first));
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
          const double g = widened(group.at[i]);
          sum = fma(g, g, sum);
        }
      }
    });
  });
  return sum_of_warp(sum);
}

// What the sum of all squares means, as gradient_gate of ops/adamw/op.py has it.
__device__ void decide(const AdamWGuard& guard, double squares, Shared& shared) {
  const bool is_bad = guard.found_inf != nullptr && *guard.found_inf != 0;
  double scale = guard.grad_scale == nullptr ? 1.0 : 1.0 / *guard.grad_scale;
  const double norm = sqrt(squares) * scale;
  const double share = guard.max_norm / (norm + CLIP_EPSILON);
  scale *= share > 1 ? 1.0 : share;
  shared.scale = static_cast<float>(scale);
  shared.skip = is_bad || !(squares <= MOST) ? 1.0f : 0.0f;
  if (blockIdx.x != 0) return;
  guard.gate[0] = static_cast<float>(norm);
  guard.gate[1] = shared.scale;
  guard.gate[2] = shared.skip;
}

// The squares of this thread block's warps, to where the others' are.
__device__ void sum_block(const AdamWTask& task, double (&of_warps)[NUM_WARPS]) {
  const double squares = sum_squares(task);
  if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = squares;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0;
  for (const double of_warp : of_warps) sum += of_warp;
  task.guard.partial[blockIdx.x] = sum;
}

// All thread blocks' sums, added by one warp in an order that never changes.
__device__ double sum_all(const AdamWGuard& guard) {
  double sum = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += WARP) {
    sum += __ldcg(guard.partial + block);
  }
  return sum_of_warp(sum);
}

__device__ void guard_step(const AdamWTask& task, Shared& shared) {
  sum_block(task, shared.squares);
  wait_for_all(task.guard.arrivals, gridDim.x);
  if (threadIdx.x >= WARP) return;
  const double squares = sum_all(task.guard);
  if (threadIdx.x == 0) decide(task.guard, squares, shared);
}

// The sum alone, for a step that comes in parts: nobody waits, whoever comes last adds.
__global__ void __launch_bounds__(THREADS, RESIDENT)
    squares_kernel(const __grid_constant__ AdamWTask task, double* squares) {
  sum_block(task, block_shared<double[NUM_WARPS]>());
  if (!arrives_last(task.guard.arrivals, gridDim.x) || threadIdx.x >= WARP) return;
  const double sum = sum_all(task.guard);
  if (threadIdx.x == 0) *squares = sum;
}

// Once everybody has read the steps, whoever comes last counts one more.
__device__ void count_step(const AdamWTask& task, bool is_taken) {
  if (!arrives_last(task.guard.arrivals, 2 * gridDim.x) || !is_taken) return;
  for (int64_t i = threadIdx.x; i < task.num_segments; i += THREADS) *task.segments[i].step += 1;
}

__device__ void copy_tables(const StateTables* from, StateTables* to) {
  constexpr int WORDS = sizeof(StateTables) / sizeof(uint32_t);
  for (int i = static_cast<int>(threadIdx.x); i < WORDS; i += THREADS) {
    reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
  }
}

__global__ void __launch_bounds__(THREADS, RESIDENT)
    adamw_kernel(const __grid_constant__ AdamWTask task) {
  const bool is_guarded = task.guard.partial != nullptr;
  if (!is_guarded && *task.skip != 0) return;
  Shared& shared = *dynamic_shared<Shared>();
  copy_tables(task.tables, &shared.tables);
  if (is_guarded) guard_step(task, shared);
  __syncthreads();
  const bool is_taken = !is_guarded || shared.skip == 0;
  const float scale = is_guarded ? shared.scale : *task.scale;
  if (is_taken) {
    walk(task, [&](int64_t index, int64_t block, int64_t end) {
      const AdamWSegment segment = task.segments[index];
      const double step = static_cast<double>(*segment.step) + (is_guarded ? 1 : 0);
      const Rates rates = Rates::of(task.numbers[index], step);
      step_blocks(segment, rates, scale, shared.tables, block, end);
    });
  }
  if (is_guarded) count_step(task, is_taken);
}

}  // namespace

int adamw_thread_blocks() {
  return num_multiprocessors("adamw_step") * RESIDENT;
}

namespace {

unsigned grid_of(const AdamWTask& task, int resident) {
  const int64_t wanted = (task.num_blocks + NUM_WARPS - 1) / NUM_WARPS;
  return static_cast<unsigned>(std::clamp(wanted, int64_t{1}, int64_t{resident}));
}

// Of the step's kernel: fewer under a tool that takes registers or memory of its own.
int resident_blocks() {
  int of_multiprocessor = 0;
  check("adamw_step", cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                          &of_multiprocessor, adamw_kernel, THREADS, sizeof(Shared)));
  return num_multiprocessors("adamw_step") * std::clamp(of_multiprocessor, 1, RESIDENT);
}

}  // namespace

void adamw_step(const AdamWTask& task, cudaStream_t stream) {
  Launch how{"adamw_step", grid_of(task, resident_blocks()), THREADS, sizeof(Shared), stream};
  how.is_cooperative = task.guard.partial != nullptr;
  launch(how, adamw_kernel, task);
}

void squared_norm(const AdamWTask& task, double* squares, cudaStream_t stream) {
  launch({"gradient_gate", grid_of(task, adamw_thread_blocks()), THREADS, 0, stream},
         squares_kernel, task, squares);
}

}  // namespace qlora::cuda
