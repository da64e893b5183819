// Elements of activations and weights in kernels: groups of them as the 16 bytes that memory likes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../common/element.h"

namespace qlora::cuda {

// An address that a kernel has read from memory, which the compiler would take for one anywhere.
template <class Value>
__device__ __forceinline__ Value* in_global(Value* address) {
#ifdef __CUDACC__
  __builtin_assume(__isGlobal(address));
#endif
  return address;
}

// Two floats rounded to the nearest, ties to even; the first in the low half.
template <class Element>
__device__ uint32_t rounded_pair(float first, float second);

template <>
__device__ __forceinline__ uint32_t rounded_pair<BFloat16>(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <>
__device__ __forceinline__ uint32_t rounded_pair<Float16>(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// An element in float32, exact; to_float of a half in one instruction.
template <class Element>
__device__ __forceinline__ float widened(Element value) {
  return to_float(value);
}

template <>
__device__ __forceinline__ float widened<Float16>(Float16 value) {
  return __half2float(__ushort_as_half(value.bits));
}

// Calls body with a value of the type, which is the same for all lanes.
template <class Body>
__device__ __forceinline__ void with_type(ElementType type, const Body& body) {
  if (type == ElementType::float32) {
    body(float{});
  } else if (type == ElementType::bfloat16) {
    body(BFloat16{});
  } else {
    body(Float16{});
  }
}

// Values, rounded, by one store of 8 or 16 bytes; `out` is a multiple of that.
template <class Element, size_t NUM>
__device__ __forceinline__ void store_vector(Element* out, const float (&x)[NUM]) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    static_assert(NUM == 4);
    *reinterpret_cast<float4*>(out) = {x[0], x[1], x[2], x[3]};
  } else if constexpr (NUM == 4) {
    *reinterpret_cast<uint2*>(out) = {rounded_pair<Element>(x[0], x[1]),
                                      rounded_pair<Element>(x[2], x[3])};
  } else {
    static_assert(NUM == 8);
    *reinterpret_cast<uint4*>(out) = {
        rounded_pair<Element>(x[0], x[1]), rounded_pair<Element>(x[2], x[3]),
        rounded_pair<Element>(x[4], x[5]), rounded_pair<Element>(x[6], x[7])};
  }
}

// Eight values in float32, by loads of 16 bytes.
template <class Element>
__device__ __forceinline__ void load_eight(const Element* in, float (&x)[8]) {
  constexpr int NUM_LOADS = sizeof(Element) * 8 / sizeof(uint4);
  uint4 loaded[NUM_LOADS];
#pragma unroll
  for (int i = 0; i < NUM_LOADS; ++i) loaded[i] = reinterpret_cast<const uint4*>(in)[i];
  const auto* elements = reinterpret_cast<const Element*>(loaded);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = widened(elements[i]);
}

}  // namespace qlora::cuda
