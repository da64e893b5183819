// Stands for CUDA's header of this name: bfloat16 is the upper half of a float, rounded to even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "vector_types.h"

struct __nv_bfloat16 {
  uint16_t bits;
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (std::isnan(value)) return {0x7fff};  // as the hardware has it
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t above = bits & 0xffff0000u, rest = bits & 0xffffu;
  const bool up = rest > 0x8000u || (rest == 0x8000u && (above & 0x10000u) != 0);
  return {static_cast<uint16_t>((above >> 16) + up)};
}
inline __nv_bfloat16 __float2bfloat16(float value) {
  return __float2bfloat16_rn(value);
}
inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) {
  return value.bits;
}
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return {bits};
}
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) {
  return {low, high};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) {
  return __floats2bfloat162_rn(pair.x, pair.y);
}
inline float2 __bfloat1622float2(__nv_bfloat162 pair) {
  return {__bfloat162float(pair.x), __bfloat162float(pair.y)};
}
inline float __low2float(__nv_bfloat162 pair) {
  return __bfloat162float(pair.x);
}
inline float __high2float(__nv_bfloat162 pair) {
  return __bfloat162float(pair.y);
}
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 value) {
  return {value, value};
}

namespace emulation {

// A sum in double, rounded once: to odd in float first, which keeps what decides a tie.
inline __nv_bfloat16 rounded_once(double exact) {
  float value = static_cast<float>(exact);
  if (std::isfinite(value) && value != exact) {
    if (std::abs(double{value}) > std::abs(exact)) value = std::nextafter(value, 0.0f);
    value = std::bit_cast<float>(std::bit_cast<uint32_t>(value) | 1u);
  }
  return __float2bfloat16_rn(value);
}

}  // namespace emulation

inline __nv_bfloat16 __hmul(__nv_bfloat16 left, __nv_bfloat16 right) {
  return __float2bfloat16_rn(__bfloat162float(left) * __bfloat162float(right));  // exact in float
}
inline __nv_bfloat16 __hadd(__nv_bfloat16 left, __nv_bfloat16 right) {
  return emulation::rounded_once(double{__bfloat162float(left)} + __bfloat162float(right));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 x, __nv_bfloat16 y, __nv_bfloat16 z) {
  const double product = double{__bfloat162float(x)} * __bfloat162float(y);
  return emulation::rounded_once(product + __bfloat162float(z));
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 left, __nv_bfloat162 right) {
  return {__hmul(left.x, right.x), __hmul(left.y, right.y)};
}
inline __nv_bfloat162 __hadd2(__nv_bfloat162 left, __nv_bfloat162 right) {
  return {__hadd(left.x, right.x), __hadd(left.y, right.y)};
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 x, __nv_bfloat162 y, __nv_bfloat162 z) {
  return {__hfma(x.x, y.x, z.x), __hfma(x.y, y.y, z.y)};
}
