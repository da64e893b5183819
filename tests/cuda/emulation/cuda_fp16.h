// Stands for CUDA's header of this name: half precision by the compiler's own type.
#pragma once

#include <bit>
#include <cstdint>

#include "vector_types.h"

struct __half {
  _Float16 value;
};

struct alignas(4) __half2 {
  __half x, y;
};

using half = __half;
using half2 = __half2;

inline __half __float2half_rn(float value) {
  return {static_cast<_Float16>(value)};
}
inline __half __float2half(float value) {
  return __float2half_rn(value);
}
inline float __half2float(__half value) {
  return static_cast<float>(value.value);
}
inline unsigned short __half_as_ushort(__half value) {
  return std::bit_cast<uint16_t>(value.value);
}
inline __half __ushort_as_half(unsigned short bits) {
  return {std::bit_cast<_Float16>(bits)};
}
inline __half2 __halves2half2(__half low, __half high) {
  return {low, high};
}
inline __half2 __floats2half2_rn(float low, float high) {
  return {__float2half_rn(low), __float2half_rn(high)};
}
inline __half2 __float22half2_rn(float2 pair) {
  return __floats2half2_rn(pair.x, pair.y);
}
inline float2 __half22float2(__half2 pair) {
  return {__half2float(pair.x), __half2float(pair.y)};
}
inline float __low2float(__half2 pair) {
  return __half2float(pair.x);
}
inline float __high2float(__half2 pair) {
  return __half2float(pair.y);
}
inline __half2 __half2half2(__half value) {
  return {value, value};
}

// The exact result in float, or in double for a sum of three, rounded once.
inline __half __hmul(__half left, __half right) {
  return __float2half_rn(__half2float(left) * __half2float(right));
}
inline __half __hadd(__half left, __half right) {
  return __float2half_rn(__half2float(left) + __half2float(right));
}
inline __half __hfma(__half x, __half y, __half z) {
  const double exact = double{__half2float(x)} * __half2float(y) + __half2float(z);
  return {static_cast<_Float16>(exact)};
}
inline __half2 __hmul2(__half2 left, __half2 right) {
  return {__hmul(left.x, right.x), __hmul(left.y, right.y)};
}
inline __half2 __hadd2(__half2 left, __half2 right) {
  return {__hadd(left.x, right.x), __hadd(left.y, right.y)};
}
inline __half2 __hfma2(__half2 x, __half2 y, __half2 z) {
  return {__hfma(x.x, y.x, z.x), __hfma(x.y, y.y, z.y)};
}
