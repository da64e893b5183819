// Stands for CUDA's header of this name, so that g++ compiles kernels to run on the CPU, thread by
// thread (block.h). What a kernel needs and is not here does not compile: add it.
#pragma once

#include "atomics.h"
#include "block.h"
#include "intrinsics.h"
#include "runtime_api.h"
#include "vector_types.h"
#include "warp.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

inline void __syncthreads(const emulation::Site& site = emulation::Site::current()) {
  emulation::meet_block(false, site);
}

inline int __syncthreads_or(int value, const emulation::Site& site = emulation::Site::current()) {
  return emulation::meet_block(value != 0, site) != 0;
}

inline int __syncthreads_count(int value,
                               const emulation::Site& site = emulation::Site::current()) {
  return static_cast<int>(emulation::meet_block(value != 0, site));
}

inline int __syncthreads_and(int value, const emulation::Site& site = emulation::Site::current()) {
  return __syncthreads_count(value, site) == static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
}
