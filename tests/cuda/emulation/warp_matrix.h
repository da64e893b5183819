// The matrix instructions of a warp, from what its lanes hold (csrc/cuda/tensor_core.h says what).
#pragma once

#include "../../../csrc/common/element.h"
#include "block.h"

namespace emulation {

struct MatrixParts {
  uint32_t w[4], x[2];
};

template <class Element>
double half_of(uint32_t pair, unsigned which) {
  return qlora::to_float(Element{static_cast<uint16_t>(pair >> (16 * which))});
}

// sums [16, 8] += w [16, 16] x [16, 8]: sixteen exact products, added and rounded once.
template <class Element>
void multiply_add(float (&sums)[4], const uint32_t (&w)[4], uint32_t x0, uint32_t x1,
                  const Site& site = Site::current()) {
  const MatrixParts own{{w[0], w[1], w[2], w[3]}, {x0, x1}};
  const auto parts = exchange({"mma.sync", site, 0xffffffffu}, own);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    double sum = sums[i];
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned holder = k % 8 / 2, upper = k / 8;
      const uint32_t left = parts[4 * g + holder].w[i / 2 + 2 * upper];
      const uint32_t right = parts[4 * (2 * t + i % 2) + holder].x[upper];
      sum += half_of<Element>(left, k % 2) * half_of<Element>(right, k % 2);
    }
    sums[i] = static_cast<float>(sum);
  }
}

struct ByteParts {
  uint32_t rows[4], x[2];
};

inline int byte_of(uint32_t word, unsigned which, bool is_signed) {
  const auto byte = static_cast<uint8_t>(word >> (8 * which));
  return is_signed ? static_cast<int8_t>(byte) : byte;
}

// start + rows [16, 32] x [32, 8], in integers; the bytes of x are signed or not.
inline uint4 multiply_bytes(bool is_signed, const std::array<uint32_t, 4>& rows, uint2 x,
                            uint4 start, const Site& site) {
  const ByteParts own{{rows[0], rows[1], rows[2], rows[3]}, {x.x, x.y}};
  const auto parts = exchange({"mma.sync", site, 0xffffffffu}, own);
  const unsigned g = lane() / 4, t = lane() % 4;
  uint32_t sums[4] = {start.x, start.y, start.z, start.w};
  for (unsigned i = 0; i < 4; ++i) {
    for (unsigned k = 0; k < 32; ++k) {
      const unsigned holder = k % 16 / 4, upper = k / 16;
      const uint32_t left = parts[4 * g + holder].rows[i / 2 + 2 * upper];
      const uint32_t right = parts[4 * (2 * t + i % 2) + holder].x[upper];
      sums[i] +=
          static_cast<uint32_t>(byte_of(left, k % 4, false) * byte_of(right, k % 4, is_signed));
    }
  }
  return {sums[0], sums[1], sums[2], sums[3]};
}

}  // namespace emulation
