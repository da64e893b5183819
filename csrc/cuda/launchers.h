// What runs on the GPU: plain functions that launch kernels on a stream and return at once.
// Pointers are to device memory; none is kept.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/element.h"
#include "../common/host_device.h"
#include "../common/nf4.h"

namespace qlora::cuda {

// Block scales: float32, or codes of the dynamic map with a scale per 256 and one offset.
struct Scales {
  const void* stored = nullptr;          // float [blocks], or uint8 [blocks] where nested
  const float* nested_absmax = nullptr;  // null: plain
  const float* map = nullptr;            // [256]
  const float* offset = nullptr;         // [1]
};

// A quantized weight [n, k]; blocks run over the flattened elements and may straddle rows. The
// codebook goes along by value: a kernel reads it from its parameters.
struct Weight {
  const uint8_t* codes = nullptr;
  Scales scales;
  float codebook[NUM_CODES] = {};
  bool is_int8 = false;
  int64_t n = 0, k = 0;
  int block_shift = 0;  // block size = 2^block_shift

  HOST_DEVICE int64_t size() const { return n * k; }
};

struct Output {
  void* data = nullptr;
  ElementType type = ElementType::float32;
};

// out[i] = codebook[code[i]] * absmax[i / block], rounded once to out's type
void dequantize(const Weight& weight, const Output& out, cudaStream_t stream);

}  // namespace qlora::cuda
