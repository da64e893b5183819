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

// A weight that is quantized, flat; int8 where there is no codebook.
struct Quantize {
  const void* input;
  ElementType type;
  int64_t size;
  int block_shift;
  float codebook[NUM_CODES];
  bool is_int8;
  uint8_t* codes;   // [ceil(size / 2)], or [size]
  float* absmax;    // [blocks]
  int32_t* is_bad;  // [1]: set to 1 if a value is not finite, else left
};

// absmax = max |w| of each block, code = nearest(w / absmax)
void quantize(const Quantize& task, cudaStream_t stream);

// What an error in each column counts, where values are not null.
struct Importance {
  const float* values;  // [columns]
  int64_t columns;
};

struct Ratios {
  const float* values;  // [num]
  int num;
};

// absmax = the best of max |w| and its multiples by these ratios, code = nearest(w / absmax)
void search_scales(const Quantize& task, const Importance& importance, const Ratios& ratios,
                   cudaStream_t stream);

// The same of each block's 8-bit scale and its two neighbours, which takes the scale's place in
// `scale_codes`; `scales` decodes them, task.absmax is not touched.
void search_nested(const Quantize& task, const Importance& importance, const Scales& scales,
                   uint8_t* scale_codes, cudaStream_t stream);

// Block scales that are double-quantized.
struct QuantizeScales {
  const float *absmax, *offset;  // [size], [1]
  const float* map;              // [256]
  int64_t size;
  uint8_t* codes;        // [size]
  float* nested_absmax;  // [ceil(size / 256)]
};

// nested_absmax = max |absmax - offset| of 256, code = nearest in the map
void quantize_scales(const QuantizeScales& task, cudaStream_t stream);

}  // namespace qlora::cuda
