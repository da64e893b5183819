// What DoRA's norms are computed from: norm[n] = |W_n + s b_n A|.
#pragma once

#include "../common/views.h"
#include "launchers.h"

namespace qlora::cuda {

constexpr int64_t NORM_ROWS = 128, NORM_COLUMNS = 128;  // of W, that a thread block sums at a time

struct NormTask {
  Weight weight;
  AdapterView adapter;           // of which dropout plays no part
  int64_t splits = 1;            // thread blocks that share the columns of NORM_ROWS rows
  float* norm = nullptr;         // [n]
  float* partial = nullptr;      // [splits, n]: squares that meet; not used by one split
  uint32_t* arrivals = nullptr;  // [ceil(n / NORM_ROWS)], zero before the launch and after it
};

void dora_column_norm(const NormTask& task, cudaStream_t stream);

}  // namespace qlora::cuda
