// What the body for few rows of x is given of a weight where products of bf16 are paired.
#pragma once

#include <cstdint>

#include "../common/rounded_codebook.h"

namespace qlora::cpu {

// Some depths of as many rows of packed codes as a vector has lanes; a scale counts for `step`
// depths, a multiple of 32.
struct PairedRows {
  const uint8_t* codes;  // of the first row
  int64_t row_bytes;     // from row to row
  const BFloat16* codebook;
  float unit;           // of the codebook
  const float* scales;  // [num_steps, lanes]
  int64_t num_steps, step;
};

}  // namespace qlora::cpu
