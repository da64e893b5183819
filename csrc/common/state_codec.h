// 8-bit optimizer states: one code of a dynamic map per value, one absmax per block of 256.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "blockwise8.h"
#include "element.h"
#include "host_device.h"

namespace qlora {

constexpr int64_t STATE_BLOCK = 256;
constexpr float MIN_STATE =
    0x1p-126f;  // blocks of smaller values are zeros: 1 / MIN_STATE is finite

// Finds the nearest entry of a dynamic map, ties to the lower code, by one look-up and one
// addition.
//
// A magnitude's exponent and the top bits of its mantissa choose a cell: word >> SHIFT, where word
// are the float's bits above those of LEAST. The map's thresholds are so far apart that a cell
// holds at most one, so that a value in it has one of two codes:
//
//   cells[cell] = lower code << SHIFT  +  (2^SHIFT - 1 - rest of the last word with that code)
//                 - (cell << SHIFT)
//   code        = (cells[word >> SHIFT] + word) >> SHIFT
//
// where the sum carries into the code for every word beyond that last one. Negative values have
// cells of their own after the others, since ties fall the other way; codes sink there as
// magnitudes grow, and the sum gives 255 minus the code.
template <bool SIGNED>
struct StateCodec {
  static constexpr int SHIFT = SIGNED ? 17 : 16;
  static constexpr uint32_t LEAST = 0x34000000u;  // 2^-23: under every threshold
  static constexpr uint32_t MOST = 0x3f800000u;   // 1
  static constexpr uint32_t CELLS = ((MOST - LEAST) >> SHIFT) + 1;

  float map[NUM_CODES8];
  uint32_t cells[SIGNED ? 2 * CELLS : CELLS];

  // From 256 sorted values, 0 among them; throws if a cell would hold two thresholds.
  explicit StateCodec(const float* values) {
    std::copy(values, values + NUM_CODES8, map);
    const auto zero = static_cast<uint32_t>(std::find(map, map + NUM_CODES8, 0.0f) - map);
    fill(0, zero, [&](uint32_t code) {
      const double middle = midpoint(code, code + 1);
      const float below = static_cast<float>(middle);
      return bits_of(below) - (static_cast<double>(below) > middle);
    });
    if constexpr (SIGNED) {
      fill(CELLS, NUM_CODES8 - 1 - zero, [&](uint32_t mirrored) {
        const uint32_t code = NUM_CODES8 - 1 - mirrored;
        const double middle = -midpoint(code - 1, code);
        const float above = static_cast<float>(middle);
        return bits_of(above) - (static_cast<double>(above) >= middle);
      });
    }
  }

  HOST_DEVICE uint8_t encode(float scaled) const {
    const uint32_t bits = bits_of(scaled);
    const bool is_negative = SIGNED && bits >> 31 != 0;
    uint32_t word = std::clamp(bits & 0x7fffffffu, LEAST, MOST) - LEAST;
    if (is_negative) word += CELLS << SHIFT;
    const uint32_t code = (cells[word >> SHIFT] + word) >> SHIFT;
    return static_cast<uint8_t>(is_negative ? NUM_CODES8 - 1 - code : code);
  }

 private:
  double midpoint(uint32_t code, uint32_t next) const {
    return (static_cast<double>(map[code]) + static_cast<double>(map[next])) / 2;
  }

  // Walks cells upwards from the code of zero; last_of(code) has the bits of its last magnitude.
  template <class LastOf>
  void fill(uint32_t start, uint32_t code, const LastOf& last_of) {
    constexpr uint32_t REST = (1u << SHIFT) - 1;
    for (uint32_t i = 0; i < CELLS; ++i) {
      const uint32_t first = LEAST + (i << SHIFT);
      const bool is_split = code < NUM_CODES8 - 1 && last_of(code) - first <= REST;
      const uint32_t carry = is_split ? REST - (last_of(code) - first) : 0;
      cells[start + i] = (code << SHIFT) + carry - ((start + i) << SHIFT);
      code += is_split;
    }
    if (code != NUM_CODES8 - 1)
      throw std::invalid_argument("map: should be a dynamic map, was not");
  }
};

}  // namespace qlora
