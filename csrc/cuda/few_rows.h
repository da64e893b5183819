// How the thread blocks of a product with few rows of x are made up.
#pragma once

#include "qlora_linear.h"

namespace qlora::cuda {

constexpr int WARP = 32;
constexpr int NUM_WARPS = 8;
constexpr int THREADS = NUM_WARPS * WARP;
constexpr int STRIP = 32;  // rows of W that a warp walks together

// The steps of columns that a warp walks; a step's size is that of the walk.
struct Share {
  int first, last;  // plus one
};

__device__ __forceinline__ int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % WARP;
}

// Read from a lane, so that the compiler sees one number for the warp and keeps what follows from
// it in uniform registers.
__device__ __forceinline__ int warp_of_block() {
  return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / WARP, 0);
}

// The same sum in every lane, in an order that no schedule changes.
__device__ __forceinline__ float sum_of_warp(float value) {
  for (int other = WARP / 2; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
  return value;
}

}  // namespace qlora::cuda
