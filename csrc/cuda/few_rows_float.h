// The walk of a weight in float32, for float32 x: multiply-adds, which alone keep all its digits.
// Tensor cores would round both factors to ten bits; splits of three parts each take six products,
// and are added up by truncation.
//
// A lane has a row of the strip, so that nothing is summed across lanes. It reads 64 columns of it
// at a time, a step ahead: whole sectors of memory, and one scale, which multiplies the sum of
// their products, or, where x has many rows and sums fill the registers, each weight. Everybody
// multiplies the same columns of x: 16 bytes of it are one broadcast, and serve 32 rows of W. One
// row of x comes from the cache; of several, a warp first copies the step's columns to shared
// memory, where their places are constants and need no registers. The pairs of values of a byte are
// float2 here, once for each of the 16 lanes that shared memory serves at a time, found by one
// permute as in few_rows_tensor.h.
//
// The budget (H100, a clock of a multiprocessor: memory delivers 25 weights; 128 lanes multiply).
// Eight weights take eight instructions to decode, and for each row of x eight multiply-adds and
// two loads: one row stands below memory's pace, and five rows' multiply-adds are already above it.
#pragma once

#include "device_weight.h"
#include "element.h"
#include "few_rows.h"
#include "few_rows_tensor.h"
#include "shared.h"

namespace qlora::cuda {

// 256 rows again, one for each byte; the right halves hold what warps pass on.
struct FloatPairRow {
  float2 pair[WARP / 2];
  float sums[STRIP];  // row 128 + 16 warp + token
};

struct FloatNibbles {
  static constexpr int BITS = 4;
  using Row = FloatPairRow;

  static __device__ void fill(Row* rows, const float* values) {
    for (int place = static_cast<int>(threadIdx.x); place < (1 << 8) * WARP / 2; place += THREADS) {
      const int byte = place / (WARP / 2);
      rows[byte].pair[place % (WARP / 2)] = {values[byte >> 4], values[byte & 15]};
    }
  }

  // The values of eight columns.
  static __device__ __forceinline__ void decode(const Row* rows, const uint32_t* words,
                                                float (&values)[8]) {
    static_assert(sizeof(Row) == 1 << 8);
    const uint32_t bank = static_cast<uint32_t>(sizeof(float2)) * (threadIdx.x % (WARP / 2));
#pragma unroll
    for (uint32_t part = 0; part < 4; ++part) {
      const uint32_t offset = __byte_perm(words[0], bank, 0x5504u + (part << 4));
      const auto* place = reinterpret_cast<const char*>(rows) + offset;
      const float2 pair = *reinterpret_cast<const float2*>(place);
      values[2 * part] = pair.x;
      values[2 * part + 1] = pair.y;
    }
  }
};

struct FloatBytes {
  static constexpr int BITS = 8;
  using Row = ByteRow;

  static __device__ void fill(Row*, const float*) {}

  static __device__ __forceinline__ void decode(const Row*, const uint32_t* words,
                                                float (&values)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = value_of_byte(words[i / 4], i % 4);
  }
};

template <class Codes, int TOKENS>
struct FloatWalk {
  static constexpr int STEP = SCALED_COLUMNS;
  static constexpr int LOADS = STEP * Codes::BITS / 128;  // 16 bytes each, of a lane's row
  static constexpr int CHAINS = TOKENS < 4 ? 4 : 1;       // of sums, so that none is waited for
  static constexpr bool SCALES_WEIGHTS = TOKENS >= 8;
  static constexpr int BLOCKS_PER_MULTIPROCESSOR = TOKENS * Codes::BITS < 64 ? 2 : 1;  // registers
  static constexpr bool STAGES_X = TOKENS > 1;

  struct Shared {
    typename Codes::Row rows[1 << 8];
    float4 x[NUM_WARPS][STAGES_X ? TOKENS : 1][STAGES_X ? STEP / 4 : 1];
  };
  static constexpr size_t SHARED_BYTES = sizeof(Shared);

  const LinearTask& task;
  Shared& shared = *dynamic_shared<Shared>();
  typename Codes::Row* const rows = shared.rows;
  const int64_t row;  // the strip's first
  const Share share;
  const int lane = lane_of_warp(), warp = warp_of_block();
  const uint8_t* codes;  // of the lane's row, where the next load starts
  int64_t scaled;        // the flat index of the column that the next scale is of
  Words next[LOADS] = {};
  float total[TOKENS][1] = {};

  __device__ FloatWalk(const LinearTask& task, int64_t row, Share share)
      : task(task), row(row), share(share) {
    const Weight& w = task.weight;
    const int64_t own = min(row + lane, w.n - 1);  // beyond the last: as it, and not written
    scaled = own * w.k + int64_t{share.first} * STEP;
    codes = w.codes + scaled * Codes::BITS / 8;
    if (share.first < share.last) read_codes();
  }

  __device__ void prepare() { Codes::fill(rows, task.weight.codebook); }

  __device__ __forceinline__ void read_codes() {
#pragma unroll
    for (int i = 0; i < LOADS; ++i) next[i] = read_shared(codes + 16 * i);
    codes += 16 * LOADS;
  }

  // A step's columns, from `x` on; rows that are not there are the last one, and not written.
  __device__ __forceinline__ void stage(const float* x) {
    if (!STAGES_X) return;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TOKENS * STEP / 4 / WARP; ++i) {
      const int token = (i * WARP + lane) / (STEP / 4), part = lane % (STEP / 4);
      const int64_t of_x = min(static_cast<int64_t>(token), task.x.rows - 1) * task.x.stride;
      shared.x[warp][token][part] = *reinterpret_cast<const float4*>(x + of_x + 4 * part);
    }
    __syncwarp();
  }

  // sums += the products of eight columns, which start at `column` of the step that x starts with.
  template <int NUM>
  __device__ __forceinline__ void multiply(const float (&w)[8], const float* x, int column,
                                           float (&sums)[TOKENS][NUM]) const {
#pragma unroll
    for (int token = 0; token < TOKENS; ++token) {
      float values[8];
      load_eight(STAGES_X ? &shared.x[warp][token][column / 4].x : x + column, values);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums[token][i % NUM] = __fmaf_rn(w[i], values[i], sums[token][i % NUM]);
      }
    }
  }

  __device__ __forceinline__ void add_scaled(const float (&sums)[TOKENS][CHAINS], float scale) {
#pragma unroll
    for (int token = 0; token < TOKENS; ++token) {
      float sum = 0;
#pragma unroll
      for (const float chain : sums[token]) sum += chain;
      total[token][0] = __fmaf_rn(sum, scale, total[token][0]);
    }
  }

  __device__ void walk() {
    const auto* x = static_cast<const float*>(task.x.data) + int64_t{share.first} * STEP;
#pragma unroll 1
    for (int step = share.first; step < share.last; ++step, x += STEP, scaled += STEP) {
      Words words[LOADS];
#pragma unroll
      for (int i = 0; i < LOADS; ++i) words[i] = next[i];
      if (step + 1 < share.last) read_codes();
      stage(x);
      const float scale = scale_at(task, scaled);
      float sums[TOKENS][CHAINS] = {};
#pragma unroll
      for (int i = 0; i < STEP / 8; ++i) {
        const int first = i * Codes::BITS / 4;  // word of eight columns
        float values[8];
        Codes::decode(rows, &words[first / 4].word[first % 4], values);
        if constexpr (SCALES_WEIGHTS) {
#pragma unroll
          for (float& value : values) value *= scale;
          multiply(values, x, 8 * i, total);
        } else {
          multiply(values, x, 8 * i, sums);
        }
      }
      if constexpr (!SCALES_WEIGHTS) add_scaled(sums, scale);
    }
#pragma unroll
    for (int token = 0; token < TOKENS; ++token) sums_of(warp, token)[lane] = total[token][0];
  }

  __device__ float* sums_of(int of_warp, int token) const {
    return rows[(NUM_WARPS + of_warp) * LINEAR_MAX_ROWS + token].sums;
  }
};

}  // namespace qlora::cuda
