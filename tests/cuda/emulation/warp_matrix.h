// The matrix instruction of a warp, from what its lanes hold (csrc/cuda/tensor_core.h says what).
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

}  // namespace emulation
