// quantize and dequantize: the codecs of all formats.
#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "element.h"
#include "launch.h"
#include "../common/blockwise8.h"
#include "launchers.h"
#include "scales.h"
#include "shared.h"
#include "tensor_core.h"

namespace qlora::cuda {
namespace {

constexpr int WARP = 32, MIN_BLOCK = 32;

__device__ unsigned lane_id() {
  return threadIdx.x % WARP;
}

__device__ unsigned warp_id() {
  return threadIdx.x / WARP;
}

#include "dequantize.inl"
#include "encoders.inl"
#include "quantize.inl"
#include "quantize_scales.inl"
#include "scale_search.inl"

}  // namespace

void dequantize(const Weight& weight, const Output& out, cudaStream_t stream) {
  dispatch(out.type, [&](auto* tag) {
    using Element = std::remove_pointer_t<decltype(tag)>;
    auto* target = static_cast<Element*>(out.data);
    choose(weight.is_int8, [&](auto is_int8) {
      choose(weight.scales.nested_absmax != nullptr, [&](auto nested) {
        choose(weight.block_shift == std::countr_zero(unsigned{MIN_BLOCK}), [&](auto is_short) {
          constexpr int GRANULE = is_short.value ? MIN_BLOCK : 2 * MIN_BLOCK;
          launch_dequantize<Element, is_int8.value, nested.value, GRANULE>(weight, target, stream);
        });
      });
    });
  });
}

void quantize(const Quantize& how, cudaStream_t stream) {
  dispatch(how.type, [&](auto* tag) {
    using Element = std::remove_pointer_t<decltype(tag)>;
    const auto task = quantize_task<Element>(how);
    if (how.is_int8) {
      launch_quantize<Element, Int8Codes>(task, stream);
    } else if (CellCodes::takes(task.book)) {
      launch_quantize<Element, CellCodes>(task, stream);
    } else {
      launch_quantize<Element, AnyCodes>(task, stream);
    }
  });
}

void search_scales(const Quantize& task, const Importance& importance, const Ratios& ratios,
                   cudaStream_t stream) {
  const Multiples candidates{ratios.values, ratios.num, task.absmax};
  dispatch(task.type, [&](auto* tag) {
    using Element = std::remove_pointer_t<decltype(tag)>;
    launch_search<Element>(task, importance, candidates, stream);
  });
}

void search_nested(const Quantize& task, const Importance& importance, const Scales& scales,
                   uint8_t* scale_codes, cudaStream_t stream) {
  const Neighbours candidates{scales.map, scales.nested_absmax, scales.offset, scale_codes};
  dispatch(task.type, [&](auto* tag) {
    using Element = std::remove_pointer_t<decltype(tag)>;
    launch_search<Element>(task, importance, candidates, stream);
  });
}

void quantize_scales(const QuantizeScales& task, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(num_blocks(task.size, NESTED_BLOCK));
  launch({"quantize", blocks, NESTED_THREADS, 0, stream}, quantize_scales_kernel, task);
}

}  // namespace qlora::cuda
