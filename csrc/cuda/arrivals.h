// Thread blocks that share a sum: who comes last finishes it, and nobody waits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace qlora::cuda {

constexpr unsigned WAIT_NANOSECONDS = 32;  // far below what a launch takes

// Whether this thread block is the last of `expected`, and sees what the others wrote before. The
// counter is zero again afterwards.
__device__ inline bool arrives_last(uint32_t* arrivals, uint32_t expected) {
  __threadfence();
  __syncthreads();
  const bool is_last = threadIdx.x == 0 && atomicInc(arrivals, expected - 1) == expected - 1;
  if (!__syncthreads_or(is_last)) return false;
  __threadfence();
  return true;
}

// Waits until all thread blocks of a launch, which must be resident together, have come here; each
// then sees what the others wrote before. The counter goes on to 2 * `expected`, which it reaches,
// and is zero again, when they all call arrives_last(arrivals, 2 * expected).
__device__ inline void wait_for_all(uint32_t* arrivals, uint32_t expected) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicInc(arrivals, 2 * expected - 1);
    while (*static_cast<volatile uint32_t*>(arrivals) < expected) __nanosleep(WAIT_NANOSECONDS);
    __threadfence();
  }
  __syncthreads();
}

}  // namespace qlora::cuda
