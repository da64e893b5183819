// What a step of AdamW over many tensors is given: a table of their addresses in device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/element.h"
#include "../common/blockwise8.h"

namespace qlora::cuda {

constexpr int64_t STATE_BLOCK = 256;  // elements that share the absmax of their states
constexpr float MIN_STATE =
    0x1p-126f;  // blocks of smaller values are zeros: 1 / MIN_STATE is finite

// One segment: its tensors, flat; 0 where there is none. Fields as ops/adamw/cuda_kernel.py packs
// them, eight bytes each.
struct AdamWSegment {
  void* parameter;
  const void* gradient;
  void *exp_avg, *exp_avg_sq;                 // float32, or codes where there is an absmax
  float *exp_avg_absmax, *exp_avg_sq_absmax;  // per STATE_BLOCK
  float* master;                              // of which the parameter is the rounded copy
  const float* step;                          // [], counted from 1
  int64_t size;
  int64_t first_block;  // blocks of the segments before
  int64_t types;        // the parameter's, and the gradient's << 8
};

struct AdamWNumbers {
  double lr, beta1, beta2, eps, weight_decay;
};

// What the codes of 8-bit states mean, as ops/adamw/cuda_kernel.py packs it.
struct StateCodes {
  float map[NUM_CODES8];
  float thresholds[NUM_CODES8];  // a value's code is the number of those below it; the last is inf
};

struct StateTables {
  StateCodes exp_avg, exp_avg_sq;
};

struct AdamWTask {
  const AdamWSegment* segments;
  const AdamWNumbers* numbers;  // of each segment
  int64_t num_segments, num_blocks;
  const StateTables* tables;
  const float* scale;  // []: what gradients are multiplied with: unscaling and clipping in one
  const float* skip;   // []: not 0 where nothing may change
};

void adamw_step(const AdamWTask& task, cudaStream_t stream);

}  // namespace qlora::cuda
