// How kernels are launched, and errors of CUDA told: `op: what CUDA says`.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace qlora::cuda {

inline void check(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error));
}

struct Launch {
  const char* op;  // for errors
  dim3 grid, block;
  size_t shared_bytes;  // dynamic
  cudaStream_t stream;
  bool is_cooperative = false;  // its blocks wait for each other: all resident, or refused
};

// kernel(arguments...) on the stream; a grid without blocks is no launch.
template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  check(how.op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(how.shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  config.attrs = &cooperative;
  config.numAttrs = how.is_cooperative ? 1 : 0;
  check(how.op, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

inline int num_multiprocessors(const char* op) {
  int device = 0, count = 0;
  check(op, cudaGetDevice(&device));
  check(op, cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

inline int64_t num_blocks(int64_t size, int64_t block) {
  return (size + block - 1) / block;
}

inline bool is_multiple_of_16(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

// Calls body with std::true_type or std::false_type: a choice at run time of what is compiled.
template <class Body>
void choose(bool value, const Body& body) {
  value ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace qlora::cuda
