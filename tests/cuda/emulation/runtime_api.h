// The part of CUDA's runtime interface that launches kernels; a failing kernel is an error whose
// text says what happened.
#pragma once

#include <map>
#include <string>

#include "block.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorCooperativeLaunchTooLarge = 720,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

struct EmulatedStream;
using cudaStream_t = EmulatedStream*;

enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative = 2 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  union {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emulation {

inline std::string last_failure;
inline std::map<const void*, size_t> asked_shared;  // by kernel: more than the default
constexpr int NUM_MULTIPROCESSORS = 2;              // few, so that small cases have long loops
constexpr int RESIDENT = 2;                         // thread blocks of each

inline cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel,
                          const std::function<void()>& body) {
  const dim3 block = config.blockDim, grid = config.gridDim;
  const size_t threads = size_t{block.x} * block.y * block.z;
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  const size_t limit = std::max(asked_shared[kernel], DEFAULT_SHARED);
  if (threads == 0 || threads > MAX_THREADS || blocks == 0 || grid.y > 65535 || grid.z > 65535 ||
      config.dynamicSmemBytes > limit) {
    return cudaErrorInvalidConfiguration;
  }
  const bool is_cooperative = config.numAttrs > 0 && config.attrs->val.cooperative != 0;
  if (is_cooperative && blocks > NUM_MULTIPROCESSORS * RESIDENT) {
    return cudaErrorCooperativeLaunchTooLarge;
  }
  try {
    run({grid, block, config.dynamicSmemBytes, is_cooperative}, body);
  } catch (const std::exception& error) {
    last_failure = error.what();
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace emulation

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return emulation::launch(*config, reinterpret_cast<const void*>(kernel),
                           [&] { kernel(Parameters(arguments)...); });
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > emulation::MAX_SHARED) return cudaErrorInvalidValue;
  emulation::asked_shared[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(value);
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = emulation::RESIDENT;
  return cudaSuccess;
}

inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}

inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool is_count = attribute == cudaDevAttrMultiProcessorCount;
  *value = is_count ? emulation::NUM_MULTIPROCESSORS : static_cast<int>(emulation::MAX_SHARED);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* place, int value, size_t size, cudaStream_t) {
  std::memset(place, value, size);
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    case cudaErrorLaunchFailure:
      return emulation::last_failure.c_str();
  }
  return "unknown error";
}
