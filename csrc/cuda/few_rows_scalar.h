// The walk of a weight value by value: float32 x, short blocks, rows that start anywhere.
#pragma once

#include "device_weight.h"
#include "few_rows.h"
#include "shared.h"

namespace qlora::cuda {

template <class Element>
struct ScalarWalk {
  static constexpr int COLUMNS = 8;  // that a lane multiplies at a time
  static constexpr int STEP = WARP * COLUMNS;
  static constexpr int TOGETHER = 4;  // rows of x; with all sixteen, registers would spill
  static constexpr int BLOCKS_PER_MULTIPROCESSOR = 2;

  struct Shared {
    float codebook[NUM_CODES];
    float sums[NUM_WARPS][LINEAR_MAX_ROWS][STRIP];
  };
  static constexpr size_t SHARED_BYTES = sizeof(Shared);

  const LinearTask& task;
  Shared& shared = *dynamic_shared<Shared>();
  const int64_t row;  // the strip's first
  const Share share;
  const int lane = lane_of_warp(), warp = warp_of_block();

  __device__ ScalarWalk(const LinearTask& task, int64_t row, Share share)
      : task(task), row(row), share(share) {}

  __device__ void prepare() {
    if (threadIdx.x < NUM_CODES) {
      shared.codebook[threadIdx.x] = task.weight.codebook[threadIdx.x];
    }
  }

  __device__ __forceinline__ float value_at(int64_t place) const {
    const uint8_t* codes = task.weight.codes;
    if (task.weight.is_int8) return static_cast<float>(static_cast<int8_t>(codes[place]));
    return shared.codebook[nibble_at(codes, place)];
  }

  // sums += the products of up to COLUMNS columns of a row of W with a few rows of x.
  __device__ void multiply(int64_t own, int64_t column, int token, float (&sums)[TOGETHER]) const {
    const Weight& w = task.weight;
    const int64_t first = own * w.k + column, in_block = (int64_t{1} << w.block_shift) - 1;
    const auto* x = static_cast<const Element*>(task.x.data) + token * task.x.stride + column;
    float scale = 0;
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) {
      if (column + i >= w.k) return;
      if (i == 0 || ((first + i) & in_block) == 0) scale = scale_at(task, first + i);
      const float weight = value_at(first + i) * scale;
#pragma unroll
      for (int other = 0; other < TOGETHER; ++other) {
        if (token + other < task.x.rows) {
          const float value = to_float(x[other * task.x.stride + i]);
          sums[other] = __fmaf_rn(weight, value, sums[other]);
        }
      }
    }
  }

  __device__ void walk() {
    for (int own = 0; own < STRIP && row + own < task.weight.n; ++own) {
      for (int token = 0; token < task.x.rows; token += TOGETHER) {
        float sums[TOGETHER] = {};
        for (int step = share.first; step < share.last; ++step) {
          const int64_t column = int64_t{step} * STEP + lane * COLUMNS;
          multiply(row + own, column, token, sums);
        }
#pragma unroll
        for (int other = 0; other < TOGETHER; ++other) {
          const float sum = sum_of_warp(sums[other]);
          if (lane == 0) sums_of(warp, token + other)[own] = sum;
        }
      }
    }
  }

  __device__ float* sums_of(int of_warp, int token) const { return shared.sums[of_warp][token]; }
};

}  // namespace qlora::cuda
