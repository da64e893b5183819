// Shared memory of a block, and copies into it that run while threads go on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace qlora::cuda {

#ifdef __CUDACC__

// One object for all threads of the block, not initialized.
template <class Value>
__device__ __forceinline__ Value& block_shared() {
  __shared__ Value value;
  return value;
}

// The bytes that the launch asked for.
template <class Value>
__device__ __forceinline__ Value* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char dynamic_bytes[];
  return reinterpret_cast<Value*>(dynamic_bytes);
}

// A place in shared memory as a number, and the pair of floats at such a place.
__device__ __forceinline__ uint32_t shared_address(const void* place) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(place));
}

__device__ __forceinline__ float2 load_shared_pair(uint32_t address) {
  float2 pair;
  asm("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address));
  return pair;
}

// 16 bytes past the registers and L1; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most so many of the last groups of this thread are under way; other threads' copies are
// seen after a barrier.
template <int GROUPS_LEFT>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}

#else  // tests/cuda/emulation

using emulation::block_shared;
using emulation::commit_copies;

template <class Value>
Value* dynamic_shared() {
  return static_cast<Value*>(emulation::dynamic_shared());
}

inline uint32_t shared_address(const void* place) {
  return static_cast<uint32_t>(static_cast<const char*>(place) - dynamic_shared<char>());
}

inline float2 load_shared_pair(uint32_t address) {
  return *reinterpret_cast<const float2*>(dynamic_shared<char>() + address);
}

inline void copy_async_16(void* shared, const void* global) {
  emulation::copy_later(shared, global, 16);
}

template <int GROUPS_LEFT>
void wait_for_copies() {
  emulation::wait_for_copies(GROUPS_LEFT);
}

#endif

}  // namespace qlora::cuda
