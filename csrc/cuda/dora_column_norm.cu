// norm[n] = |W_n + s b_n A|, straight from packed codes; the sum stands nowhere but in registers.
//
// Two ways take the same n k rank multiplications and one decoding of W. The rank-sized identity
// (|W_n|^2 + 2 s <W_n A^T, b_n> + s^2 <b_n A A^T, b_n>) cancels where s B A nears -W: it would need
// double precision, which most GPUs hardly have. Squares of the sum's own entries lose nothing that
// the dense sum would keep, and float32 serves. So it is a matrix product b_n A that is consumed
// where it arises, by multiply-adds of float32: tensor cores would round the factors to ten bits,
// and to get the others back take three products, with splitting on the way.
//
// The tile. A thread block treats 128 rows of W by 128 columns at a time; a thread has eight rows
// and eight neighbouring columns of them, whose codes are one word a row (two of int8). The codes
// are asked for first, and arrive while threads multiply. Staged in shared memory
// as float32, an element of A serves 128 rows and one of B 128 columns; of the 64 multiply-adds for
// a rank, a thread loads 16 numbers for it. That A is read again for every 128 rows is as many
// bytes as the codes are, for rank 16; they come from the second-level cache.
//
// The budget (H100: 128 lanes of multiply-adds a clock; memory delivers 25 weights a clock). Rank 4
// takes 100 lanes of it at that pace, so beyond rank 4 multiplying is the limit, whatever else one
// does: Llama 8B's 7e9 weights at rank 16 take 3.8 ms once per optimizer step. Beside that,
// decoding may be plain: a look-up among sixteen floats in sixteen banks has no conflicts.
//
// The sums. Eight squares of a row are added first, then tile after tile, then eight lanes by
// shuffles, two warps, and the thread blocks that share the columns, by whoever of them comes last:
// a fixed order, in which few terms are added in a row. The bits never depend on the schedule.
#include "dora_column_norm.h"

#include "arrivals.h"
#include "device_weight.h"
#include "element.h"
#include "few_rows.h"
#include "launch.h"
#include "shared.h"

namespace qlora::cuda {
namespace {

constexpr int ROWS = NORM_ROWS, COLUMNS = NORM_COLUMNS;
constexpr int OWN = 8;   // rows of a thread, and its neighbouring columns
constexpr int SIDE = 8;  // lanes side by side
constexpr int WARP_ROWS = WARP / SIDE * OWN, WARP_COLUMNS = SIDE * OWN;
constexpr int WARPS_ASIDE = COLUMNS / WARP_COLUMNS;
constexpr int DEPTH = 32;    // ranks that are staged together
constexpr int UNROLLED = 4;  // ranks that are multiplied together
static_assert(ROWS / WARP_ROWS * WARPS_ASIDE == NUM_WARPS, "the warps cover the tile");

struct Shared {
  float a[DEPTH][COLUMNS];  // at `place`
  float b[DEPTH][ROWS];
  float codebook[NUM_CODES];
  float squares[WARPS_ASIDE][ROWS];
};

// Where a column of A stands. The first four columns of each lane of a warp stand together, then
// the other four: lanes that load 16 bytes each touch every bank once.
__device__ __forceinline__ int place(int column) {
  const int lane = column % WARP_COLUMNS / OWN, half = column % OWN / 4;
  return column / WARP_COLUMNS * WARP_COLUMNS + half * (WARP_COLUMNS / 2) + lane * 4 + column % 4;
}

// Where a thread stands in the tile.
struct Position {
  int warp_columns;  // the warp's first column
  int lane;          // of those side by side
  int row;           // its first

  __device__ Position()
      : warp_columns(warp_of_block() % WARPS_ASIDE * WARP_COLUMNS),
        lane(lane_of_warp() % SIDE),
        row(warp_of_block() / WARPS_ASIDE * WARP_ROWS + lane_of_warp() / SIDE * OWN) {}

  __device__ int column() const { return warp_columns + lane * OWN; }
};

// How far a code lies from the right end of its word.
template <bool IS_INT8>
__device__ constexpr int shift_of(int i) {
  return IS_INT8 ? i % 4 * 8 : i / 2 * 8 + (i % 2 == 0 ? 4 : 0);
}

// Where rows of W start: at whole blocks of scales, which a warp's columns don't leave; at whole
// words of a thread's codes; or anywhere.
enum class Start { blocks, words, anywhere };

// Codes and scales of OWN neighbouring columns of a row. Where rows start anywhere, a second block
// may begin at `boundary`, and columns from `count` on are not there: their scale is zero.
template <bool IS_INT8, Start START>
struct Group {
  static constexpr int NUM_WORDS = IS_INT8 ? 2 : 1;

  uint32_t words[NUM_WORDS];
  float scale, next_scale;
  int boundary, count;

  __device__ __forceinline__ void load_codes(const Weight& weight, int64_t row, int64_t column) {
#pragma unroll
    for (uint32_t& word : words) word = 0;
    if (row >= weight.n || column >= weight.k) return;
    const int64_t index = row * weight.k + column;
    if constexpr (START != Start::anywhere) {
      const auto* codes = reinterpret_cast<const uint32_t*>(weight.codes);
#pragma unroll
      for (int i = 0; i < NUM_WORDS; ++i) words[i] = codes[index / OWN * NUM_WORDS + i];
    } else {
#pragma unroll
      for (int i = 0; i < OWN; ++i) {
        if (column + i >= weight.k) return;
        const int code = IS_INT8 ? weight.codes[index + i] : nibble_at(weight.codes, index + i);
        words[i * NUM_WORDS / OWN] |= static_cast<uint32_t>(code) << shift_of<IS_INT8>(i);
      }
    }
  }

  __device__ __forceinline__ void load_scales(const Weight& weight, int64_t row, int64_t column) {
    scale = next_scale = 0;
    boundary = count = 0;
    if (row >= weight.n || column >= weight.k) return;
    const int64_t index = row * weight.k + column;
    scale = scale_at(weight, index);
    if constexpr (START != Start::anywhere) return;
    const int64_t next = ((index >> weight.block_shift) + 1) << weight.block_shift;
    boundary = static_cast<int>(min(next - index, int64_t{OWN}));
    count = static_cast<int>(min(weight.k - column, int64_t{OWN}));
    if (boundary < count) next_scale = scale_at(weight, next);
  }

  __device__ __forceinline__ float value(const Shared& shared, int i) const {
    const uint32_t code = words[i * NUM_WORDS / OWN] >> shift_of<IS_INT8>(i);
    const float of_code =
        IS_INT8 ? static_cast<float>(static_cast<int8_t>(code)) : shared.codebook[code % NUM_CODES];
    float own_scale = scale;
    if constexpr (START == Start::anywhere) {
      if (i >= boundary) own_scale = next_scale;
      if (i >= count) own_scale = 0;
    }
    return __fmul_rn(of_code, own_scale);
  }
};

// Ranks that are staged of those that remain: whole steps of the multiplication.
__device__ __forceinline__ int staged(int64_t ranks) {
  const int some = static_cast<int>(min(ranks, int64_t{DEPTH}));
  return (some + UNROLLED - 1) / UNROLLED * UNROLLED;
}

__device__ __forceinline__ int present_of(int64_t ranks) {
  return static_cast<int>(min(ranks, int64_t{DEPTH}));
}

// Elements of the factors that stand `stride` apart, every STEP-th of `count` is this thread's: to
// shared memory as float32, zeros where nothing is there or beyond `present`.
template <int WIDTH>
__device__ __forceinline__ void stage(const MatrixView& factor, int64_t index, int64_t stride,
                                      float* staged, int count, int present) {
  constexpr int STEP = THREADS / WIDTH;
  const int start = static_cast<int>(threadIdx.x) / WIDTH;
  with_type(factor.type, [&](auto tag) {
    const auto* from = static_cast<const decltype(tag)*>(factor.data) + index + start * stride;
#pragma unroll 2
    for (int r = start; r < count; r += STEP, from += STEP * stride) {
      staged[r * WIDTH] = r < present ? widened(*from) : 0.0f;
    }
  });
}

// Ranks first, first + 1, ... of the tile's columns of A.
__device__ void stage_a(const MatrixView& a, Shared& shared, int64_t first, int64_t tile_column) {
  const int own = static_cast<int>(threadIdx.x) % COLUMNS;
  const int64_t column = tile_column + own, ranks = a.rows - first;
  stage<COLUMNS>(a, first * a.stride + column, a.stride, &shared.a[0][place(own)], staged(ranks),
                 column < a.columns ? present_of(ranks) : 0);
}

// The same of this thread block's rows of B.
__device__ void stage_b(const MatrixView& b, Shared& shared, int64_t first) {
  const int own = static_cast<int>(threadIdx.x) % ROWS;
  const int64_t row = blockIdx.x * NORM_ROWS + own, ranks = b.columns - first;
  stage<ROWS>(b, row * b.stride + first, 1, &shared.b[0][own], staged(ranks),
              row < b.rows ? present_of(ranks) : 0);
}

using Sums = float[OWN][OWN];  // of a thread's rows and columns

// sums += b A for the ranks that are staged.
__device__ __forceinline__ void multiply(const Shared& shared, Position at, int depth, Sums& sums) {
  const float* a = &shared.a[0][at.warp_columns + at.lane * 4];
  const float* b = &shared.b[0][at.row];
  for (int r = 0; r < depth; r += UNROLLED) {
#pragma unroll
    for (int i = 0; i < UNROLLED; ++i, a += COLUMNS, b += ROWS) {
      float columns[OWN], rows[OWN];
      reinterpret_cast<float4*>(columns)[0] = *reinterpret_cast<const float4*>(a);
      reinterpret_cast<float4*>(columns)[1] =
          *reinterpret_cast<const float4*>(a + WARP_COLUMNS / 2);
      load_eight(b, rows);
#pragma unroll
      for (int row = 0; row < OWN; ++row) {
#pragma unroll
        for (int column = 0; column < OWN; ++column) {
          sums[row][column] = __fmaf_rn(rows[row], columns[column], sums[row][column]);
        }
      }
    }
  }
}

// One scale serves a warp's columns of a row; each lane has that of one of its rows.
__device__ __forceinline__ float scale_of_lane(const Weight& weight, Position at, int64_t tile) {
  const int64_t row = blockIdx.x * NORM_ROWS + at.row / WARP_ROWS * WARP_ROWS + lane_of_warp();
  const int64_t column = tile + at.warp_columns;
  return row < weight.n && column < weight.k ? scale_at(weight, row * weight.k + column) : 0.0f;
}
static_assert(WARP_ROWS == WARP, "a row for each lane");

// squares[row] of this thread, over its columns of all tiles of this thread block.
template <bool IS_INT8, Start START>
__device__ void sum_squares(const NormTask& task, Shared& shared, Position at,
                            float (&squares)[OWN]) {
  const int64_t rank = task.adapter.rank, tiles = (task.weight.k + COLUMNS - 1) / COLUMNS;
  const int64_t first_row = blockIdx.x * NORM_ROWS + at.row;
  const int64_t start = tiles * blockIdx.y / task.splits;
  const int64_t end = tiles * (blockIdx.y + 1) / task.splits;
  for (int64_t tile = start; tile < end; ++tile) {
    const int64_t column = tile * COLUMNS + at.column();
    Group<IS_INT8, START> groups[OWN];
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      groups[i].load_codes(task.weight, first_row + i, column);
    }
    Sums sums = {};
    for (int64_t first = 0; first < rank; first += DEPTH) {
      __syncthreads();  // Nobody reads what was staged before any more.
      stage_a(task.adapter.a, shared, first, tile * COLUMNS);
      if (tile == start || rank > DEPTH) stage_b(task.adapter.b, shared, first);
      __syncthreads();
      multiply(shared, at, staged(rank - first), sums);
    }
    float of_lane = 0;
    if constexpr (START == Start::blocks) of_lane = scale_of_lane(task.weight, at, tile * COLUMNS);
#pragma unroll
    for (int row = 0; row < OWN; ++row) {
      if constexpr (START == Start::blocks) {
        groups[row].scale = __shfl_sync(~0u, of_lane, lane_of_warp() / SIDE * OWN + row);
      } else {
        groups[row].load_scales(task.weight, first_row + row, column);
      }
      float of_tile = 0;
#pragma unroll
      for (int i = 0; i < OWN; ++i) {
        const float weight = groups[row].value(shared, i);
        const float entry = __fmaf_rn(task.adapter.scaling, sums[row][i], weight);
        of_tile = __fmaf_rn(entry, entry, of_tile);
      }
      squares[row] += of_tile;
    }
  }
}

// The square sum of row threadIdx.x of this thread block's columns.
__device__ float sum_of_lanes(Shared& shared, Position at, float (&squares)[OWN]) {
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    for (int other = SIDE / 2; other > 0; other /= 2) {
      squares[i] += __shfl_xor_sync(~0u, squares[i], other);
    }
    if (at.lane == 0) shared.squares[at.warp_columns / WARP_COLUMNS][at.row + i] = squares[i];
  }
  __syncthreads();
  float sum = 0;
  if (threadIdx.x < ROWS) {
    for (const auto& of_warps : shared.squares) sum += of_warps[threadIdx.x];
  }
  return sum;
}

template <bool IS_INT8, Start START>
__global__ void __launch_bounds__(THREADS, 1)
    dora_column_norm_kernel(const __grid_constant__ NormTask task) {
  Shared& shared = block_shared<Shared>();
  if (threadIdx.x < NUM_CODES) shared.codebook[threadIdx.x] = task.weight.codebook[threadIdx.x];
  __syncthreads();
  const Position at;
  float squares[OWN] = {};
  sum_squares<IS_INT8, START>(task, shared, at, squares);
  float sum = sum_of_lanes(shared, at, squares);
  const int64_t n = task.weight.n, row = blockIdx.x * NORM_ROWS + threadIdx.x;
  const bool is_row = threadIdx.x < ROWS && row < n;
  if (task.splits > 1) {
    if (is_row) task.partial[blockIdx.y * n + row] = sum;
    if (!arrives_last(task.arrivals + blockIdx.x, static_cast<uint32_t>(task.splits))) return;
    sum = 0;
    for (int64_t i = 0; is_row && i < task.splits; ++i) sum += task.partial[i * n + row];
  }
  if (is_row) task.norm[row] = __fsqrt_rn(sum);
}

template <bool IS_INT8>
Start start_of(const Weight& weight) {
  const auto first = reinterpret_cast<uintptr_t>(weight.codes);
  if (weight.k % OWN != 0 || first % (IS_INT8 ? OWN : OWN / 2) != 0) return Start::anywhere;
  const bool is_whole = weight.k % WARP_COLUMNS == 0 && 1 << weight.block_shift >= WARP_COLUMNS;
  return is_whole ? Start::blocks : Start::words;
}

template <bool IS_INT8, Start START>
void launch_norm(const NormTask& task, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(num_blocks(task.weight.n, ROWS)),
                  static_cast<unsigned>(task.splits));
  launch({"dora_column_norm", grid, dim3(THREADS), 0, stream},
         dora_column_norm_kernel<IS_INT8, START>, task);
}

}  // namespace

void dora_column_norm(const NormTask& task, cudaStream_t stream) {
  choose(task.weight.is_int8, [&](auto is_int8) {
    switch (start_of<is_int8.value>(task.weight)) {
      case Start::blocks:
        return launch_norm<is_int8.value, Start::blocks>(task, stream);
      case Start::words:
        return launch_norm<is_int8.value, Start::words>(task, stream);
      case Start::anywhere:
        return launch_norm<is_int8.value, Start::anywhere>(task, stream);
    }
  });
}

}  // namespace qlora::cuda
