// Arithmetic and memory intrinsics, bit for bit what the hardware does.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

// Bytes 0-3 are x's, 4-7 y's; each nibble of the selector names one, its high bit its sign
// eightfold.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 15;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7))) & 0xff;
    if ((pick & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline int __float_as_int(float value) {
  return std::bit_cast<int>(value);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline float __int_as_float(int bits) {
  return std::bit_cast<float>(bits);
}

// Compiled without contraction: each is rounded once, to nearest.
inline float __fadd_rn(float left, float right) {
  return left + right;
}
inline float __fsub_rn(float left, float right) {
  return left - right;
}
inline float __fmul_rn(float left, float right) {
  return left * right;
}
inline float __fdiv_rn(float left, float right) {
  return left / right;
}
inline float __frcp_rn(float value) {
  return 1.0f / value;
}
inline float __fsqrt_rn(float value) {
  return std::sqrt(value);
}
inline float __fmaf_rn(float x, float y, float z) {
  return std::fma(x, y, z);
}
inline float rsqrtf(float value) {
  return 1.0f / std::sqrt(value);
}
inline int __float2int_rn(float value) {
  return static_cast<int>(std::nearbyint(value));
}

using std::max;
using std::min;

inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __clz(int value) {
  return std::countl_zero(static_cast<unsigned>(value));
}
inline int __ffs(int value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1;
}
inline unsigned __umulhi(unsigned left, unsigned right) {
  return static_cast<unsigned>(uint64_t{left} * right >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}

// Loads and stores with a hint for the caches.
template <class Value>
Value __ldg(const Value* place) {
  return *place;
}
template <class Value>
Value __ldcs(const Value* place) {
  return *place;
}
template <class Value>
Value __ldcg(const Value* place) {
  return *place;
}
template <class Value>
void __stcs(Value* place, Value value) {
  *place = value;
}
template <class Value>
void __stcg(Value* place, Value value) {
  *place = value;
}
