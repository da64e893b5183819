// The module qlora_kernels._cuda: addresses of device memory, sizes and a stream as integers; each
// function launches its kernels and returns at once. Python has checked the tensors before.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <utility>
#include <vector>

#include "../cuda/launch.h"
#include "../cuda/launchers.h"
#include "cuda.h"

namespace py = pybind11;
using qlora::ElementType;
using qlora::NUM_CODES;
using qlora::bindings::pointer;
using qlora::bindings::stream_of;
using qlora::cuda::Importance;
using qlora::cuda::Output;
using qlora::cuda::Quantize;
using qlora::cuda::Scales;
using qlora::cuda::Weight;

namespace {

// Addresses of (scales, nested_absmax, map, offset), the last three 0 for plain ones.
Scales scales_of(const std::array<uintptr_t, 4>& scales) {
  return {pointer<const void>(scales[0]), pointer<const float>(scales[1]),
          pointer<const float>(scales[2]), pointer<const float>(scales[3])};
}

Weight weight_of(uintptr_t codes, const std::array<uintptr_t, 4>& scales,
                 const std::optional<std::array<float, NUM_CODES>>& codebook,
                 const std::array<int64_t, 2>& shape, unsigned block_size) {
  Weight weight;
  weight.codes = pointer<const uint8_t>(codes);
  weight.scales = scales_of(scales);
  weight.is_int8 = !codebook;
  if (codebook) std::copy(codebook->begin(), codebook->end(), weight.codebook);
  weight.n = shape[0];
  weight.k = shape[1];
  weight.block_shift = std::countr_zero(block_size);
  return weight;
}

void dequantize(const Weight& weight, uintptr_t out, ElementType type, uintptr_t stream) {
  qlora::cuda::dequantize(weight, {pointer<void>(out), type}, stream_of(stream));
}

// `outputs`: addresses of (codes, absmax, is_bad).
Quantize quantize_of(uintptr_t input, ElementType type,
                     const std::array<int64_t, 2>& size_and_block,
                     const std::optional<std::array<float, NUM_CODES>>& codebook,
                     const std::array<uintptr_t, 3>& outputs) {
  Quantize task{};
  task.input = pointer<const void>(input);
  task.type = type;
  task.size = size_and_block[0];
  task.block_shift = std::countr_zero(static_cast<uint64_t>(size_and_block[1]));
  task.is_int8 = !codebook;
  if (codebook) std::copy(codebook->begin(), codebook->end(), task.codebook);
  task.codes = pointer<uint8_t>(outputs[0]);
  task.absmax = pointer<float>(outputs[1]);
  task.is_bad = pointer<int32_t>(outputs[2]);
  return task;
}

void quantize(const Quantize& task, uintptr_t stream) {
  qlora::cuda::quantize(task, stream_of(stream));
}

using Counted = std::pair<uintptr_t, int64_t>;  // an address, 0 for none, and how many

Importance importance_of(const Counted& importance) {
  return {pointer<const float>(importance.first), importance.second};
}

void search_scales(const Quantize& task, const Counted& importance, const Counted& ratios,
                   uintptr_t stream) {
  const auto [address, num] = ratios;
  qlora::cuda::search_scales(task, importance_of(importance),
                             {pointer<const float>(address), static_cast<int>(num)},
                             stream_of(stream));
}

// `scales`: addresses of (codes, nested_absmax, map, offset).
void search_nested(const Quantize& task, const Counted& importance,
                   const std::array<uintptr_t, 4>& scales, uintptr_t stream) {
  qlora::cuda::search_nested(task, importance_of(importance), scales_of(scales),
                             pointer<uint8_t>(scales[0]), stream_of(stream));
}

// `inputs`: addresses of (absmax, offset, map); `outputs`: of (codes, nested_absmax).
void quantize_scales(const std::array<uintptr_t, 3>& inputs, int64_t size,
                     const std::array<uintptr_t, 2>& outputs, uintptr_t stream) {
  qlora::cuda::quantize_scales({pointer<const float>(inputs[0]), pointer<const float>(inputs[1]),
                                pointer<const float>(inputs[2]), size, pointer<uint8_t>(outputs[0]),
                                pointer<float>(outputs[1])},
                               stream_of(stream));
}

// Of CUDA, as it numbers them: 13000 is 13.0; a driver that is not installed is 0.
int version(cudaError_t (*ask)(int*)) {
  int number = 0;
  qlora::cuda::check("_cuda", ask(&number));
  return number;
}

// 900 is sm_90: those that nvcc was told to compile for, oldest first.
std::vector<int> architectures() {
#ifdef __CUDA_ARCH_LIST__
  return {__CUDA_ARCH_LIST__};
#else  // tests/cuda/emulation
  return {};
#endif
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA kernels; qlora_kernels.gpu.cuda_module loads them.";
  py::enum_<ElementType>(module, "ElementType", py::module_local())
      .value("float32", ElementType::float32)
      .value("bfloat16", ElementType::bfloat16)
      .value("float16", ElementType::float16);
  py::class_<Weight>(module, "Weight", py::module_local())
      .def(py::init(&weight_of), py::arg("codes"), py::arg("scales"), py::arg("codebook"),
           py::arg("shape"), py::arg("block_size"));
  module.def("driver_version", [] { return version(cudaDriverGetVersion); });
  module.def("runtime_version", [] { return version(cudaRuntimeGetVersion); });
  module.def("architectures", architectures);
  module.def("dequantize", dequantize);
  py::class_<Quantize>(module, "Quantize", py::module_local())
      .def(py::init(&quantize_of), py::arg("input"), py::arg("type"), py::arg("size_and_block"),
           py::arg("codebook"), py::arg("outputs"));
  module.def("quantize", quantize);
  module.def("search_scales", search_scales);
  module.def("search_nested", search_nested);
  module.def("quantize_scales", quantize_scales);
  qlora::bindings::define_adamw(module);
  qlora::bindings::define_linear(module);
  qlora::bindings::define_norm(module);
#ifdef QLORA_EMULATION
  module.def("set_schedule", emulation::set_schedule);
#endif
}
