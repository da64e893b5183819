// 4-bit codes of any sixteen-value codebook (NF4, FP4, ...): what one value becomes, and where its
// bits lie. The values themselves are data from qlora_kernels/formats/codebooks.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "host_device.h"

namespace qlora {

constexpr int NUM_CODES = 16;

// Layout of the packed codes: the first value of a pair lies in the high nibble.
HOST_DEVICE inline uint8_t pack_nibbles(uint8_t first, uint8_t second) {
  return static_cast<uint8_t>(first << 4 | second);
}

HOST_DEVICE inline int nibble_at(const uint8_t* codes, int64_t index) {
  return codes[index / 2] >> (index % 2 == 0 ? 4 : 0) & 15;
}

struct Codebook {
  float values[NUM_CODES];          // by code, in any order
  float by_rank[NUM_CODES];         // the same, sorted
  float thresholds[NUM_CODES - 1];  // between neighbours of the sorted values, fp32 midpoints
  uint8_t order[NUM_CODES];         // rank in the sorted values -> code
  bool is_sorted;                   // order is the identity

  static Codebook of(const float* values) {
    Codebook book;
    std::copy(values, values + NUM_CODES, book.values);
    std::iota(book.order, book.order + NUM_CODES, uint8_t{0});
    std::stable_sort(book.order, book.order + NUM_CODES,
                     [&](uint8_t left, uint8_t right) { return values[left] < values[right]; });
    for (int i = 0; i < NUM_CODES; ++i) book.by_rank[i] = values[book.order[i]];
    for (int i = 0; i + 1 < NUM_CODES; ++i) {
      book.thresholds[i] = (book.by_rank[i] + book.by_rank[i + 1]) / 2.0f;
    }
    book.is_sorted = std::is_sorted(book.order, book.order + NUM_CODES);
    return book;
  }

  // The place of the nearest value: ties at a threshold go to the lower rank.
  HOST_DEVICE int rank(float scaled) const {
    int below = 0;
    for (float threshold : thresholds) below += scaled > threshold;
    return below;
  }

  HOST_DEVICE uint8_t encode(float scaled) const { return order[rank(scaled)]; }
};

// The scale of a block and the value that is coded, as bitsandbytes' CPU path computes them.
constexpr float MIN_ABSMAX = 1e-38f;

HOST_DEVICE inline float clamp_to_one(float value) {
  return std::min(std::max(value, -1.0f), 1.0f);
}

}  // namespace qlora
