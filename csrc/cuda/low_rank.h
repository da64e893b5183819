// h = s x A^T, [m, rank], by shares of columns: each is summed by one thread block, and whoever
// writes the last share adds them up, in order.
#pragma once

#include "device_weight.h"
#include "few_rows.h"

namespace qlora::cuda {

// The factors of the adapter's mask; the seed lies in device memory.
__device__ __forceinline__ Dropout dropout_of(const LinearTask& task) {
  Dropout dropout = task.adapter.dropout;
  dropout.seed = static_cast<uint64_t>(*task.seed);
  return dropout;
}

// One row of A with one of x; A comes from the first-level cache from the second row of x on.
template <class Element>
__device__ void sum_share(const LinearTask& task, int64_t share) {
  const AdapterView& adapter = task.adapter;
  const int64_t m = task.x.rows, k = task.x.columns, width = task.plan.share_columns;
  const int64_t first = share * width, end = min(first + width, k);
  const bool drops = adapter.dropout_on == DropoutOn::input;
  const Dropout dropout = drops ? dropout_of(task) : Dropout{};
  for (int64_t place = warp_of_block(); place < m * adapter.rank; place += NUM_WARPS) {
    const int64_t token = place % m, r = place / m;
    const auto* x = static_cast<const Element*>(task.x.data) + token * task.x.stride;
    float sum = 0;
    for (int64_t column = first + lane_of_warp(); column < end; column += WARP) {
      float value = to_float(x[column]);
      if (drops) value *= dropout.factor(static_cast<uint64_t>(token * k + column));
      sum = __fmaf_rn(element(adapter.a, r * adapter.a.stride + column), value, sum);
    }
    sum = sum_of_warp(sum);
    if (lane_of_warp() == 0) {
      task.workspace.h_shares[(share * m + token) * adapter.rank + r] = sum;
    }
  }
}

__device__ inline void add_shares(const LinearTask& task) {
  const AdapterView& adapter = task.adapter;
  const int64_t size = task.x.rows * adapter.rank;
  const bool drops = adapter.dropout_on == DropoutOn::rank;
  const Dropout dropout = drops ? dropout_of(task) : Dropout{};
  for (int64_t place = threadIdx.x; place < size; place += THREADS) {
    float sum = 0;
    for (int64_t share = 0; share < task.plan.shares; ++share) {
      sum += task.workspace.h_shares[share * size + place];
    }
    const float kept = drops ? dropout.factor(static_cast<uint64_t>(place)) : 1.0f;
    task.workspace.h[place] = sum * adapter.scaling * kept;
  }
}

}  // namespace qlora::cuda
