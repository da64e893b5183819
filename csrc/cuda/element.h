// Elements of activations and weights in kernels: groups of them as the 16 bytes that memory likes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../common/element.h"

namespace qlora::cuda {

// Two floats rounded to the nearest, ties to even; the first in the low half.
template <class Element>
struct Pair;

template <>
struct Pair<BFloat16> {
  __nv_bfloat162 bits;
  __device__ static Pair rounded(float first, float second) {
    return {__floats2bfloat162_rn(first, second)};
  }
};

template <>
struct Pair<Float16> {
  __half2 bits;
  __device__ static Pair rounded(float first, float second) {
    return {__floats2half2_rn(first, second)};
  }
};

template <>
struct Pair<float> {
  float2 bits;
  __device__ static Pair rounded(float first, float second) { return {{first, second}}; }
};

// Eight elements, written with stores of 16 bytes.
template <class Element>
struct alignas(16) Eight {
  Pair<Element> pairs[4];
};

}  // namespace qlora::cuda
