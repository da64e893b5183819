// Thread blocks that share a sum: who comes last finishes it, and nobody waits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace qlora::cuda {

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

}  // namespace qlora::cuda
