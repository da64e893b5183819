// A quantized weight as kernels read it, one scale or one value at a time.
#pragma once

#include "qlora_linear.h"

namespace qlora::cuda {

// What a code's value is multiplied by, for the block of the flat index `index`.
__device__ __forceinline__ float scale_at(const Weight& weight, int64_t index) {
  const Scales& scales = weight.scales;
  const int64_t block = index >> weight.block_shift;
  float absmax;
  if (scales.nested_absmax != nullptr) {
    const uint8_t code = static_cast<const uint8_t*>(scales.stored)[block];
    const float nested = scales.nested_absmax[block / NESTED_BLOCK];
    absmax = decode_scale(scales.map, code, nested, *scales.offset);
  } else {
    absmax = static_cast<const float*>(scales.stored)[block];
  }
  return weight.is_int8 ? int8_step(absmax) : absmax;
}

// The same where a code's value is factor * codebook[code].
__device__ __forceinline__ float scale_at(const LinearTask& task, int64_t index) {
  const float scale = scale_at(task.weight, index);
  return task.weight.is_int8 ? scale : scale * task.factor;
}

// An element of whatever type a view has.
__device__ __forceinline__ float element(const MatrixView& view, int64_t index) {
  switch (view.type) {
    case ElementType::float32:
      return static_cast<const float*>(view.data)[index];
    case ElementType::bfloat16:
      return to_float(static_cast<const BFloat16*>(view.data)[index]);
    default:
      return to_float(static_cast<const Float16*>(view.data)[index]);
  }
}

}  // namespace qlora::cuda
