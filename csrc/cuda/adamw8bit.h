// What a step of AdamW over many tensors is given: a table of their addresses in device memory.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
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
  float* step;                                // [], counted from 1; a guard advances it
  int64_t size;
  int64_t first_block;  // blocks of the segments before
  int64_t types;        // the parameter's, and the gradient's << 8
};

struct AdamWNumbers {
  double lr, beta1, beta2, eps, weight_decay;
};

// Intervals of scaled values, numbered by the upper bits of a float's magnitude from the cell FIRST
// on, which reaches down to 0, to that of 1; where there are signs, those below zero again. In each
// lies one threshold at most.
template <bool SIGNED>
struct StateCells {
  static constexpr int MANTISSA = SIGNED ? 6 : 7;  // bits of it that a cell's number has
  static constexpr int SHIFT = 23 - MANTISSA;
  static constexpr int FIRST = (SIGNED ? 107 : 106) << MANTISSA;
  static constexpr int COUNT = (127 << MANTISSA) + 1 - FIRST;
};
constexpr int MOST_CELLS =
    (std::max(2 * StateCells<true>::COUNT, StateCells<false>::COUNT) + 3) / 4 * 4;

// What the codes of 8-bit states mean, as ops/adamw/cuda_codes.py packs it.
struct StateCodes {
  float map[NUM_CODES8];
  float thresholds[NUM_CODES8];  // a value's code is the number of those below it; the last is inf
  uint8_t first[MOST_CELLS];     // how many are below all values of a cell
};

struct StateTables {
  StateCodes exp_avg, exp_avg_sq;
};

// What is found out about all gradients before the step; `partial` null: nothing is.
struct AdamWGuard {
  double* partial = nullptr;          // [adamw_thread_blocks()]
  uint32_t* arrivals = nullptr;       // [1], zero before the launch and after it
  double max_norm = 0;                // infinity does not clip
  const float* grad_scale = nullptr;  // [] or null
  const float* found_inf = nullptr;   // [] or null
  float* gate = nullptr;              // [3]: norm, scale, skip, as ops/adamw/segment.py has them
};

struct AdamWTask {
  const AdamWSegment* segments;
  const AdamWNumbers* numbers;  // of each segment
  int64_t num_segments, num_blocks;
  const StateTables* tables;
  const float* scale;  // []: what gradients are multiplied with: unscaling and clipping in one
  const float* skip;   // []: not 0 where nothing may change
  AdamWGuard guard;    // decides these itself and counts the steps that it takes
};

// The most that take a step, on the current device.
int adamw_thread_blocks();

void adamw_step(const AdamWTask& task, cudaStream_t stream);

// Of the segments' gradients, all added up, by the guard's memory: nothing else is read.
void squared_norm(const AdamWTask& task, double* squares, cudaStream_t stream);

}  // namespace qlora::cuda
