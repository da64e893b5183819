// 8-bit optimizer states: one code of a dynamic map per value, one absmax per block of 256.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "blockwise8.h"
#include "element.h"

namespace qlora {

constexpr int64_t STATE_BLOCK = 256;
constexpr float MIN_STATE =
    0x1p-126f;  // blocks of smaller values are zeros: 1 / MIN_STATE is finite

// Lines as StateCodec has them, for vectors that look up 32 entries: an entry for each power of two
// from LEAST on, at the lower five bits of a float's exponent.
//
//   octave = exponent of (the float's bits + lift[its exponent]): the next one beyond a bound
//   code's place = slope[octave] x + start[octave], at most limit[octave]
//
// `start` has NEAR more than the lines, so that a place next to a whole number is one whose lower
// bits are below 2 NEAR; without signs it has a whole place less, which makes it the code.
struct StateOctaves {
  static constexpr int COUNT = 32;
  static constexpr float LEAST = 0x1p-31f;
  uint32_t lift[COUNT];
  float slope[COUNT], start[COUNT];
  int32_t limit[COUNT];
};

// Finds the nearest entry of a dynamic map, ties to the lower code; of the unsigned map a value
// above zero never takes the code of zero.
//
// Vectors look nothing up: each of the map's decades has twice the entries of the one below, so
// that entries have places, and a magnitude's place is a line in each region between two decades:
//
//   place  = FIRST 2^d + j   of entry j of decade d; below FIRST: zero; FIRST 2^7: 1
//   code   = 127 + place, 127 - place of a negative value, place - 1 without signs
//   region = number of bounds below the magnitude; a bound is half way between two decades
//   place(x) = floor(slope[region] x + START 2^region), at most that of the region's last entry
//
// Entries were rounded to floats, and so is the line: within NEAR units of 2^-16 of a whole number
// the place may be that of the neighbour, and of two as near it depends on the sign which is lower.
// The codes of such values, about one in 2^14, are searched for.
template <bool SIGNED>
struct StateCodec {
  static constexpr int NUM_REGIONS = 8;  // seven decades, and 1
  static constexpr int ZERO = SIGNED ? 127 : 0;
  static constexpr uint32_t FIRST = SIGNED ? 1 : 2;
  static constexpr int SHIFT = 16;  // a place's bits after the point
  static constexpr uint32_t NEAR = 2;
  // place = FIRST 2^d (1 + (x / 10^(d-6) - 0.1) / 0.9), which is START 2^d at zero.
  static constexpr float START = static_cast<float>(FIRST << SHIFT) * 8 / 9;
  // Of the first region; between the last entry's place and the next, far from both in the others.
  static constexpr uint32_t LIMIT = (FIRST << (SHIFT + 1)) - (FIRST << (SHIFT - 8));
  // The region, or one less, is the logarithm that a float's upper half is, in steps of a decade.
  static constexpr uint16_t LEAST = 13500, DECADE = 154;  // 2^16 / (128 log2(10))

  float map[NUM_CODES8];
  float slope[NUM_REGIONS];
  uint32_t bound[NUM_REGIONS];  // bits of the last float of each region
  StateOctaves octaves;
  uint8_t planes[sizeof(float)][NUM_CODES8];  // byte by byte of the map's entries, the lowest first

  // From 256 sorted values; throws where a line would miss an entry of the map. Not for code that
  // is compiled for AVX-512: there g++ 12 at -O3 forgets the comparison in last_with.
  explicit StateCodec(const float* values) {
    std::copy(values, values + NUM_CODES8, map);
    const double unit = 1 << SHIFT;
    double decade = 1e-6;
    for (int d = 0; d + 1 < NUM_REGIONS; ++d, decade *= 10) {
      slope[d] = static_cast<float>(unit * (FIRST << d) / (0.9 * decade));
      bound[d] = last_with((FIRST << (d + 1)) - 1);
    }
    // From zero's place, START, to the place after that of the first entry that is not zero's.
    const uint32_t next = SIGNED ? 1 : 3;
    slope[0] = static_cast<float>((next * unit - START) / middle_above(next - 1));
    slope[NUM_REGIONS - 1] = static_cast<float>(unit * ((FIRST << 7) + 0.25) - START * 128);
    bound[NUM_REGIONS - 1] = 0x7fffffffu;
    fill_octaves();
    for (int code = 0; code < NUM_CODES8; ++code) {
      for (uint32_t byte = 0; byte < sizeof(float); ++byte) {
        planes[byte][code] = static_cast<uint8_t>(bits_of(map[code]) >> 8 * byte & 0xff);
      }
    }
    for (uint32_t place = SIGNED ? 0 : 2; place < FIRST << 7; ++place) {
      const uint32_t last = last_with(place);
      const bool is_tie = SIGNED && float_of(last) == middle_above(place);
      if (!finds(last, is_tie ? NOWHERE : place) || !finds(last + 1, place + 1))
        throw std::invalid_argument("map: should be a dynamic map, was not");
    }
  }

  uint8_t encode(float scaled) const {
    const uint8_t code = nearest_code8(map, scaled);
    return !SIGNED && scaled > 0.0f ? std::max<uint8_t>(code, 1) : code;
  }

 private:
  static constexpr uint32_t NOWHERE = ~0u;
  static constexpr uint32_t PLACES_LESS = SIGNED ? 0 : 1;  // of an octave's lines

  void fill_octaves() {
    constexpr uint32_t EXPONENT = 23, MANTISSA = (1u << EXPONENT) - 1;
    int region = 0;
    for (uint32_t i = 0; i < StateOctaves::COUNT; ++i) {
      const uint32_t first = bits_of(StateOctaves::LEAST) + (i << EXPONENT);
      const bool has_bound = bound[region] >> EXPONENT == first >> EXPONENT;
      octaves.lift[i] = has_bound ? MANTISSA - (bound[region] & MANTISSA) : 0;
      octaves.slope[i] = slope[region];
      const float line = START * static_cast<float>(1 << region);
      octaves.start[i] = line + static_cast<float>(NEAR) - static_cast<float>(PLACES_LESS << SHIFT);
      octaves.limit[i] = static_cast<int32_t>((LIMIT << region) - (PLACES_LESS << SHIFT));
      region += has_bound;
    }
  }

  // Whether vectors that look up octaves find this place of a magnitude, or that it is searched
  // for.
  bool octaves_find(uint32_t bits, uint32_t place) const {
    const uint32_t least = bits_of(StateOctaves::LEAST), bounded = std::max(bits, least);
    const uint32_t lifted = bounded + octaves.lift[(bounded - least) >> 23];
    const uint32_t i = (lifted - least) >> 23;
    const auto units =
        static_cast<int32_t>(std::fma(octaves.slope[i], float_of(bits), octaves.start[i]));
    const bool is_near = (static_cast<uint32_t>(units) & ((1u << SHIFT) - 1)) < 2 * NEAR;
    return is_near ||
           static_cast<uint32_t>(std::min(units, octaves.limit[i]) >> SHIFT) == place - PLACES_LESS;
  }

  double middle_above(uint32_t place) const {
    const uint32_t code = SIGNED ? ZERO + place : place - 1;
    return (static_cast<double>(map[code]) + static_cast<double>(map[code + 1])) / 2;
  }

  // Bits of the last float that is not above the middle.
  uint32_t last_with(uint32_t place) const {
    const double middle = middle_above(place);
    const float below = static_cast<float>(middle);
    return bits_of(below) - (static_cast<double>(below) > middle);
  }

  // As vectors do, with one rounding or two: whether a magnitude has this place, or is searched
  // for, as one that has its place nowhere must be.
  bool finds(uint32_t bits, uint32_t place) const {
    uint32_t region = 0;
    while (bits > bound[region]) ++region;
    const uint32_t above = bits >> 16 > LEAST ? (bits >> 16) - LEAST : 0;
    const uint32_t estimate = above * DECADE >> 16;
    const float x = float_of(bits), start = START * static_cast<float>(1 << region);
    const float product = slope[region] * x;
    const auto is_found = [&](float line) {
      const auto units = static_cast<uint32_t>(line);
      const bool is_near = ((units + NEAR) & ((1u << SHIFT) - 1)) < 2 * NEAR;
      return is_near || std::min(units, LIMIT << region) >> SHIFT == place;
    };
    return (estimate == region || estimate + 1 == region) && is_found(product + start) &&
           is_found(std::fma(slope[region], x, start)) && octaves_find(bits, place);
  }
};

}  // namespace qlora
