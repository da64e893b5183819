// The element types of activations and their exact conversions: round to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace qlora {

enum class ElementType : uint8_t { float32, bfloat16, float16 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

HOST_DEVICE inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

HOST_DEVICE inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

HOST_DEVICE inline float to_float(float value) {
  return value;
}

HOST_DEVICE inline float to_float(BFloat16 value) {
  return float_of(uint32_t{value.bits} << 16);
}

HOST_DEVICE inline float to_float(Float16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >=
      0x7c00u) {  // Infinity, or NaN: the payload is kept and made quiet, as F16C does.
    const uint32_t quiet = magnitude > 0x7c00u ? 0x400000u : 0u;
    return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13 | quiet);
  }
  if (magnitude >= 0x400u) return float_of(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;  // Exact: ten bits at most.
  return float_of(sign | bits_of(subnormal));
}

template <class Element>
HOST_DEVICE Element from_float(float value);

template <>
HOST_DEVICE inline float from_float<float>(float value) {
  return value;
}

template <>
HOST_DEVICE inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
HOST_DEVICE inline Float16 from_float<Float16>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x47800000u) {  // 2^16 and more.
    half = 0x7c00u;
  } else if (magnitude >=
             0x38800000u) {  // Normal: a carry out of the mantissa raises the exponent.
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // Subnormal: adding 0.5 lets the FPU round at 2^-24, the last place of a float in [0.5,
            // 1).
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  }
  return {static_cast<uint16_t>(sign | half)};
}

// Calls `body` with a null pointer of the element type: `dispatch(type, [&](auto* tag) { ... })`.
template <class Body>
void dispatch(ElementType type, Body&& body) {
  switch (type) {
    case ElementType::float32:
      return body(static_cast<float*>(nullptr));
    case ElementType::bfloat16:
      return body(static_cast<BFloat16*>(nullptr));
    case ElementType::float16:
      return body(static_cast<Float16*>(nullptr));
  }
}

}  // namespace qlora
