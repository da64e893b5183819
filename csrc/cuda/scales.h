// A block's scale as kernels find it, nested or plain.
#pragma once

#include <cstdint>

#include "../common/blockwise8.h"
#include "launchers.h"

namespace qlora::cuda {

// What memory holds of a scale: loaded early, decoded once it is needed, so that the loads run
// while threads compute.
template <bool NESTED>
struct StoredScale;

template <>
struct StoredScale<false> {
  float absmax;

  __device__ static float offset(const Scales&) { return 0.0f; }
  __device__ static StoredScale load(const Scales& scales, uint32_t block, uint32_t) {
    return {static_cast<const float*>(scales.stored)[block]};
  }
  __device__ float decode(float) const { return absmax; }
};

template <>
struct StoredScale<true> {
  float centred, nested_absmax;

  __device__ static float offset(const Scales& scales) { return *scales.offset; }
  // near: a block of the same nested block.
  __device__ static StoredScale load(const Scales& scales, uint32_t block, uint32_t near) {
    const uint8_t code = static_cast<const uint8_t*>(scales.stored)[block];
    return {scales.map[code], scales.nested_absmax[near / static_cast<uint32_t>(NESTED_BLOCK)]};
  }
  // As decode_scale in common/blockwise8.h: a product and a sum, each rounded.
  __device__ float decode(float offset) const {
    return __fadd_rn(__fmul_rn(centred, nested_absmax), offset);
  }
};

}  // namespace qlora::cuda
