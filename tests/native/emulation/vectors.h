// The vectors that the intrinsics take, and what builds one from its lanes.
#pragma once

#include "lanes.h"

using __m256 = emulation::Vector<float, 32>;
using __m256i = emulation::Vector<long long, 32>;
using __m512 = emulation::Vector<float, 64>;
using __m512i = emulation::Vector<long long, 64>;
using __m512bh = emulation::Vector<short, 64>;
using __mmask16 = uint16_t;
using __mmask32 = uint32_t;
using __mmask64 = uint64_t;

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_NO_EXC 8
#define _CMP_LT_OQ 17

namespace emulation {

using Floats = Lanes<float>;
using Words = Lanes<uint32_t>;
using Longs = Lanes<uint64_t>;
using Halves = Lanes<uint16_t>;
using Bytes = Lanes<uint8_t>;

template <class Value>
__m512 floats(const Value& value) {
  return each<float, 64, __m512>(value);
}
template <class Lane = uint32_t, class Value>
__m512i integers(const Value& value) {
  return each<Lane, 64, __m512i>(value);
}

// Bit i is set where holds(lane i).
template <class Mask, class Lane, class Holds>
Mask mask_of(__m512i vector, const Holds& holds) {
  const Lanes<Lane> lanes(vector);
  Mask mask = 0;
  for (int i = 0; i < lanes.COUNT; ++i) {
    mask = static_cast<Mask>(mask | static_cast<Mask>(holds(lanes[i])) << i);
  }
  return mask;
}

// Of each quarter of a, then of b, the lanes in half as many bits, saturated.
template <class To, class From>
__m512i packed(__m512i a, __m512i b) {
  const Lanes<From> x(a), y(b);
  constexpr int QUARTER = Lanes<From>::COUNT / 4;
  return integers<To>([&](int i) {
    const int at = i % (2 * QUARTER), from = i / (2 * QUARTER) * QUARTER + at % QUARTER;
    const int value = at < QUARTER ? x[from] : y[from];
    return static_cast<To>(
        std::clamp<int>(value, std::numeric_limits<To>::min(), std::numeric_limits<To>::max()));
  });
}

}  // namespace emulation
