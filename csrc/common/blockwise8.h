// 8-bit codes: of block scales (double quantization, the signed dynamic map) and of int8 weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace qlora {

constexpr int NUM_CODES8 = 256;
constexpr int64_t NESTED_BLOCK = 256;  // scales per nested block

// The nearest entry of a sorted map; ties go to the lower code. Exact: the sum of two entries of
// the dynamic map, and twice a float, have no rounding in double.
HOST_DEVICE inline uint8_t nearest_code8(const float* map, float scaled) {
  int below = 0;  // the last entry that is not above, or 0
  for (int step = NUM_CODES8 / 2; step > 0; step /= 2) {
    below += step * (map[below + step] <= scaled);  // No branch: half of them would go wrong.
  }
  if (below == NUM_CODES8 - 1) return static_cast<uint8_t>(below);
  const bool is_lower = 2.0 * scaled <= static_cast<double>(map[below]) + map[below + 1];
  return static_cast<uint8_t>(is_lower ? below : below + 1);
}

// A double-quantized scale: a product and a sum, each rounded.
HOST_DEVICE inline float decode_scale(const float* map, uint8_t code, float nested_absmax,
                                      float offset) {
  const float product = map[code] * nested_absmax;
  return product + offset;
}

constexpr float INT8_MAX_CODE = 127.0f;

HOST_DEVICE inline float int8_step(float absmax) {
  return absmax / INT8_MAX_CODE;
}

// Rounds ties to even; a step of zero (a block of zeros, or of values too small for a step) codes
// 0.
HOST_DEVICE inline int8_t encode_int8(float value, float step) {
  if (step == 0.0f) return 0;
  const float code = std::nearbyint(value / step);
  const float limit = INT8_MAX_CODE;  // a place in memory, which std::min refers to
  return static_cast<int8_t>(std::min(std::max(code, -limit), limit));
}

}  // namespace qlora
