// Kernels that are wrong on purpose, or ask the emulation for one thing each.
#include "probes.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../../csrc/cuda/arrivals.h"
#include "../../csrc/cuda/launch.h"
#include "../../csrc/cuda/shared.h"

namespace {

using qlora::cuda::block_shared;

struct Words {
  int at[256];
};

// Reverses a block through shared memory; without the barrier it reads what was not written.
template <bool HAS_BARRIER>
__global__ void reverse_kernel(int* data) {
  Words& words = block_shared<Words>();
  words.at[threadIdx.x] = data[threadIdx.x];
  if (HAS_BARRIER) __syncthreads();
  data[threadIdx.x] = words.at[blockDim.x - 1 - threadIdx.x];
}

// Half of the threads miss a barrier.
__global__ void diverging_kernel(int* data) {
  if (threadIdx.x < blockDim.x / 2) __syncthreads();
  data[threadIdx.x] = 1;
}

// A lane leaves before its warp shuffles.
__global__ void leaving_kernel(int* data) {
  if (threadIdx.x == 3) return;
  data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 1);
}

// Neighbours in a warp through shared memory: right only with the warp's barrier.
template <bool HAS_BARRIER>
__global__ void neighbour_kernel(int* data) {
  Words& words = block_shared<Words>();
  words.at[threadIdx.x] = data[threadIdx.x];
  if (HAS_BARRIER) __syncwarp();
  data[threadIdx.x] = words.at[threadIdx.x ^ 1];
}

__global__ void collective_kernel(int* data) {
  const int lane = threadIdx.x % 32, value = data[threadIdx.x];
  int sum = value;
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
  const int before = __shfl_up_sync(0xffffffffu, value, 1);
  const int after = __shfl_down_sync(0xffffffffu, value, 1, 8);
  const unsigned odd = __ballot_sync(0xffffffffu, value % 2);
  const int same = __popc(__match_any_sync(0xffffffffu, value % 3));
  const int all = __syncthreads_count(value > 10);
  atomicAdd(&data[256], lane);
  data[threadIdx.x] = sum + 3 * before + 5 * after + 7 * __popc(odd) + 11 * same + 13 * all;
}

// A copy that nobody waits for has not arrived.
template <bool WAITS>
__global__ void copying_kernel(int* data) {
  Words& words = block_shared<Words>();
  if (threadIdx.x < 64)
    qlora::cuda::copy_async_16(&words.at[4 * threadIdx.x], data + 4 * threadIdx.x);
  qlora::cuda::commit_copies();
  if (WAITS) qlora::cuda::wait_for_copies<0>();
  __syncthreads();
  data[threadIdx.x] = words.at[255 - threadIdx.x];
}

__global__ void rounding_kernel(int* data) {
  const float value = __int_as_float(data[threadIdx.x]);
  const unsigned bf16 = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  const unsigned fp16 = __half_as_ushort(__float2half_rn(value));
  data[threadIdx.x] = static_cast<int>(bf16 << 16 | fp16);
}

// Thread blocks that need what all others wrote: data[256] counts those that have come.
__global__ void meeting_kernel(int* data) {
  auto* const arrivals = reinterpret_cast<uint32_t*>(data + 256);
  if (threadIdx.x == 0) data[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  qlora::cuda::wait_for_all(arrivals, gridDim.x);
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += data[block];
  if (threadIdx.x == 0) data[8 + blockIdx.x] = sum;
  if (qlora::cuda::arrives_last(arrivals, 2 * gridDim.x) && threadIdx.x == 0) data[16] = sum;
}

}  // namespace

void probe_grid(unsigned blocks, bool is_cooperative, uintptr_t address) {
  qlora::cuda::launch({"probe", blocks, 64, 0, nullptr, is_cooperative}, meeting_kernel,
                      reinterpret_cast<int*>(address));
}

void probe(const std::string& name, uintptr_t address) {
  const std::map<std::string, void (*)(int*)> kernels{
      {"reverse", reverse_kernel<true>},
      {"reverse without", reverse_kernel<false>},
      {"diverging", diverging_kernel},
      {"leaving", leaving_kernel},
      {"neighbour", neighbour_kernel<true>},
      {"neighbour without", neighbour_kernel<false>},
      {"collective", collective_kernel},
      {"copying", copying_kernel<true>},
      {"copying without", copying_kernel<false>},
      {"rounding", rounding_kernel}};
  qlora::cuda::launch({"probe", 1, 256, 0, nullptr}, kernels.at(name),
                      reinterpret_cast<int*>(address));
}
