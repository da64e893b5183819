// Vectors of any x86-64, lane by lane, and the conversions of one lane: what the files beside
// build the intrinsics from.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace emulation {

template <class Lane, int BYTES>
using Vector [[gnu::vector_size(BYTES)]] = Lane;

// The lanes of a vector as an array; the same bits, of whatever type.
template <class Lane, int BYTES = 64>
struct Lanes {
  static constexpr int COUNT = BYTES / static_cast<int>(sizeof(Lane));
  Lane lane[COUNT] = {};

  Lanes() = default;
  template <class From>
  explicit Lanes(const From& vector) {
    static_assert(sizeof vector == BYTES);
    std::memcpy(lane, &vector, BYTES);
  }
  Lane& operator[](int i) { return lane[i]; }
  const Lane& operator[](int i) const { return lane[i]; }

  template <class To>
  To as() const {
    static_assert(sizeof(To) == BYTES);
    To vector;
    std::memcpy(&vector, lane, BYTES);
    return vector;
  }
};

template <class Lane, int BYTES, class To, class Value>
To each(const Value& value) {
  Lanes<Lane, BYTES> result;
  for (int i = 0; i < result.COUNT; ++i) result[i] = value(i);
  return result.template as<To>();
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, mantissa = half & 0x3ffu;
  const int exponent = half >> 10 & 31;
  if (exponent == 31) {
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | mantissa << 13);
  }
  const float digits = static_cast<float>(exponent == 0 ? mantissa : mantissa + 1024);
  return std::copysign(std::ldexp(digits, std::max(exponent, 1) - 25), std::bit_cast<float>(sign));
}

// Nearest, ties to even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u;
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  const int exponent = magnitude < 0x1p-14f ? -14 : std::ilogb(magnitude);
  const auto digits = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + digits));
}

// Zero of the same sign for what is denormal.
inline float flushed(float value) {
  return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value;
}

inline float bf16_to_float(uint16_t half) {
  return flushed(std::bit_cast<float>(uint32_t{half} << 16));
}

inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(flushed(value));
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace emulation
