// What a product with few rows of x is given: y = g (x W^T + s (x A^T) B^T) + bias.
#pragma once

#include "../common/views.h"
#include "launchers.h"

namespace qlora::cuda {

// The launch rule's choice (ops/qlora_linear/cuda_plan.py): who sums what.
struct LinearPlan {
  int is_whole = 0;       // whole steps of columns that share scales, or value by value
  int strips = 0;         // of 32 rows of W in a thread block; its other warps share out columns
  int splits = 0;         // thread blocks that share the columns of a group of strips
  int shares = 0;         // thread blocks that sum a share of x A^T
  int share_columns = 0;  // of such a share
};

// Memory of one launch; `arrivals` is zero before it and after it.
struct LinearWorkspace {
  float* sums = nullptr;         // [groups, splits, m, rows of a group]
  float* h_shares = nullptr;     // [shares, m, rank]
  float* h = nullptr;            // [m, rank]
  uint32_t* arrivals = nullptr;  // [1 + groups]
};

struct LinearTask {
  MatrixView x;                   // [m, k]
  Weight weight;                  // its codebook rounded as x's type has it (gpu/table.py), so that
  float factor = 1;               // the value of a 4-bit code is factor * codebook[code]
  AdapterView adapter;            // rank 0: none
  const int64_t* seed = nullptr;  // of the adapter's dropout, in device memory
  MatrixView bias;                // one row; data null: none
  const float* output_scale = nullptr;  // [n] or null
  OutputView y;                         // of x's type
  LinearPlan plan;
  LinearWorkspace workspace;
};

constexpr int LINEAR_MAX_ROWS = 16;  // of x

void qlora_linear(const LinearTask& task, cudaStream_t stream);

}  // namespace qlora::cuda
