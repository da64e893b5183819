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

  __device__ static StoredScale load(const Scales& scales, int64_t block) {
    return {static_cast<const float*>(scales.stored)[block]};
  }
  __device__ float decode(const Scales&) const { return absmax; }
};

template <>
struct StoredScale<true> {
  float centred, nested_absmax;

  __device__ static StoredScale load(const Scales& scales, int64_t block) {
    const uint8_t code = static_cast<const uint8_t*>(scales.stored)[block];
    return {scales.map[code], scales.nested_absmax[block / NESTED_BLOCK]};
  }
  // As decode_scale in common/blockwise8.h: a product and a sum, each rounded.
  __device__ float decode(const Scales& scales) const {
    return __fadd_rn(__fmul_rn(centred, nested_absmax), *scales.offset);
  }
};

}  // namespace qlora::cuda
