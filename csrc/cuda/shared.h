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

// Where dynamic shared memory starts in a kernel without static: Hopper keeps the first bytes.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr unsigned DYNAMIC_START = 1024;
#else
constexpr unsigned DYNAMIC_START = 0;
#endif

// The pair so many bytes behind that start. The compiler would add the start, which it does not
// take for a constant, to every offset; here it stands in the load. `expect_dynamic_start` first.
__device__ __forceinline__ float2 load_dynamic_pair(uint32_t offset) {
  float2 pair;
  asm("ld.shared.v2.f32 {%0, %1}, [%2 + %3];"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(offset), "n"(DYNAMIC_START));
  return pair;
}

__device__ __forceinline__ void expect_dynamic_start() {
  if (__cvta_generic_to_shared(dynamic_shared<void>()) != DYNAMIC_START) __trap();
}

// 16 bytes past the registers and L1; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
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

inline float2 load_dynamic_pair(uint32_t offset) {
  return *reinterpret_cast<const float2*>(dynamic_shared<char>() + offset);
}

inline void expect_dynamic_start() {}

inline void copy_async_16(void* shared, const void* global) {
  emulation::copy_later(shared, global, 16);
}

template <int GROUPS_LEFT>
void wait_for_copies() {
  emulation::wait_for_copies(GROUPS_LEFT);
}

#endif

}  // namespace qlora::cuda
