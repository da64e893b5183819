// The module qlora_kernels._cpu: tensors in, kernels run without the GIL, results in given tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <stdexcept>
#include <tuple>

#include "../cpu/kernels.h"
#include "adamw.h"
#include "arguments.h"
#include "running.h"
#include "tensor_view.h"

namespace qlora::bindings {
namespace {

// `weight`: (w, importance of each column or None).
cpu::BlocksTask blocks_task(const py::tuple& weight, int64_t block_size, const Tables& tables,
                            py::handle codes) {
  const TensorView input = view(weight[0], "w"), code_bytes = view(codes, "codes");
  const int64_t columns = input.shape.empty() ? 1 : input.shape.back();
  const float* importance = nullptr;
  if (!weight[1].is_none()) {
    const TensorView values = view(weight[1], "importance");
    values.expect_shape({columns});
    importance = values.as<float>();
  }
  const int64_t size = input.size();
  block_shift_of(block_size);
  code_bytes.expect_shape({tables.codebook ? (size + 1) / 2 : size, 1});
  return {input.data, input.floating(),          size,
          block_size, tables.codebook_or_null(), importance,
          columns,    code_bytes.as<uint8_t>()};
}

int64_t num_blocks(const cpu::BlocksTask& task) {
  return (task.size + task.block_size - 1) / task.block_size;
}

int64_t quantize(const py::tuple& weight, int64_t block_size, const Tables& tables,
                 py::handle codes, py::handle scales, int num_threads) {
  const TensorView targets = view(scales, "scales");
  const cpu::QuantizeTask task{blocks_task(weight, block_size, tables, codes), tables.ratios,
                               targets.as<float>()};
  targets.expect_shape({num_blocks(task.blocks)});
  return without_gil(
      [&](const auto& kernels) { return kernels.quantize(task, checked(num_threads)); });
}

// `nested`: (scale codes, read and written; nested_absmax; offset).
void quantize_nested(const py::tuple& weight, int64_t block_size, const Tables& tables,
                     py::handle codes, const py::tuple& nested, int num_threads) {
  const TensorView scale_codes = view(nested[0], "scale_codes");
  const TensorView nested_absmax = view(nested[1], "nested_absmax");
  const cpu::NestedTask task{blocks_task(weight, block_size, tables, codes),
                             scale_codes.as<uint8_t>(), nested_absmax.as<float>(),
                             tables.scales.map, nested[2].cast<float>()};
  if (!tables.codebook) throw std::invalid_argument("tables: should have a codebook, had none");
  const int64_t count = num_blocks(task.blocks);
  scale_codes.expect_shape({count});
  nested_absmax.expect_shape({(count + NESTED_BLOCK - 1) / NESTED_BLOCK});
  without_gil([&](const auto& kernels) { kernels.quantize_nested(task, checked(num_threads)); });
}

void quantize_scales(py::handle absmax, float offset, const Tables& tables, py::handle codes,
                     py::handle nested_absmax, int num_threads) {
  const TensorView scales = view(absmax, "absmax"), code_bytes = view(codes, "codes");
  const TensorView nested = view(nested_absmax, "nested_absmax");
  const int64_t size = scales.size();
  code_bytes.expect_shape({size});
  nested.expect_shape({(size + NESTED_BLOCK - 1) / NESTED_BLOCK});
  const cpu::ScalesTask task{
      scales.as<float>(), size, offset, &tables.scales, code_bytes.as<uint8_t>(),
      nested.as<float>()};
  without_gil([&](const auto& kernels) { kernels.quantize_scales(task, checked(num_threads)); });
}

void dequantize(Weight& weight, py::handle out, int num_threads) {
  const TensorView target = view(out, "out");
  const WeightView source = weight.current();  // another thread may read it anew
  const int64_t n = source.n, k = source.k;
  if (target.size() != n * k) target.expect_shape({n, k});
  const OutputView values{target.data, target.floating(), n, k};
  without_gil(
      [&](const auto& kernels) { kernels.dequantize(source, values, checked(num_threads)); });
}

void dropout_mask(py::handle seed, double p, py::handle out, int num_threads) {
  const TensorView target = view(out, "out");
  const Dropout dropout = dropout_of(seed, p);
  float* factors = target.as<float>();
  without_gil([&](const auto& kernels) {
    kernels.dropout_mask(dropout, factors, target.size(), checked(num_threads));
  });
}

int64_t rows_of(const TensorView& tensor) {
  if (tensor.shape.size() != 2) tensor.expect_shape({-1, -1});
  return tensor.shape[0];
}

// Of a Weight that is part of a tuple, where a pointer would be null for None.
using WeightRef = std::reference_wrapper<Weight>;

void expect_some(const py::list& layers) {
  if (layers.empty()) throw std::invalid_argument("layers: should be at least one, were none");
}

// `layers`: tuples (weight, (adapter, seed), (bias, output_scale), y) of layers that read x.
void qlora_linear_forward(py::handle x, const py::list& layers, int num_threads) {
  expect_some(layers);
  const TensorView input = view(x, "x");
  cpu::ForwardTask task;
  task.layers.reserve(layers.size());
  for (const py::handle item : layers) {
    const auto [weight, adapter_and_seed, rows, y] =
        item.cast<std::tuple<WeightRef, py::tuple, py::tuple, py::object>>();
    cpu::ForwardLayer& layer = task.layers.emplace_back();
    layer.weight = weight.get().current();
    const int64_t n = layer.weight.n, m = input.rows(layer.weight.k);
    task.x = input.matrix(m, layer.weight.k);
    layer.adapter = adapter_view(adapter_and_seed[0], adapter_and_seed[1], layer.weight);
    const py::object bias = rows[0], output_scale = rows[1];
    if (!bias.is_none()) layer.bias = view(bias, "bias").row(n);
    if (!output_scale.is_none()) layer.output_scale = view(output_scale, "output_scale").row(n);
    layer.y = view(y, "y").output(m, n);
  }
  without_gil([&](const auto& kernels) { kernels.forward(task, checked(num_threads)); });
}

// `layers`: tuples (dy, weight, (adapter, seed), (output_scale, scaled), gradients) of layers that
// read x; `gradients` has attributes a, b, bias and output_scale: a tensor to fill, or None where
// not wanted. dx is None or their sum.
void qlora_linear_backward(py::handle x, py::handle dx, const py::list& layers, int num_threads) {
  expect_some(layers);
  cpu::BackwardTask task;
  for (const py::handle item : layers) {
    const auto [dy, weight, adapter_and_seed, scale_and_scaled, gradients] =
        item.cast<std::tuple<py::object, WeightRef, py::tuple, py::tuple, py::object>>();
    const TensorView incoming = view(dy, "dy");
    cpu::BackwardLayer& layer = task.layers.emplace_back();
    layer.weight = weight.get().current();
    const int64_t n = layer.weight.n, k = layer.weight.k, m = incoming.rows(n);
    layer.dy = incoming.matrix(m, n);
    layer.adapter = adapter_view(adapter_and_seed[0], adapter_and_seed[1], layer.weight);
    const auto wanted = [&](const char* name, int64_t rows, int64_t columns) {
      const py::object tensor = gradients.attr(name);
      return tensor.is_none() ? OutputView{} : view(tensor, name).output(rows, columns);
    };
    layer.da = wanted("a", layer.adapter.rank, k);
    layer.db = wanted("b", n, layer.adapter.rank);
    const auto wanted_row = [&](const char* name) {
      const py::object tensor = gradients.attr(name);
      return tensor.is_none() ? OutputView{} : view(tensor, name).output_row(n);
    };
    layer.dbias = wanted_row("bias");
    layer.dscale = wanted_row("output_scale");
    const py::object output_scale = scale_and_scaled[0];
    if (!output_scale.is_none()) {
      const TensorView scale = view(output_scale, "output_scale");
      scale.expect_shape({n});
      layer.output_scale = scale.as<float>();
    }
    if (layer.dscale.data != nullptr) {
      layer.scaled = view(scale_and_scaled[1], "scaled").matrix(m, n);
    }
    if (layer.da.data != nullptr || layer.db.data != nullptr) task.x = view(x, "x").matrix(m, k);
    if (!dx.is_none()) task.dx = view(dx, "dx").output(m, k);
    if (m != task.layers.front().dy.rows) incoming.expect_shape({task.layers.front().dy.rows, n});
  }
  without_gil([&](const auto& kernels) { kernels.backward(task, checked(num_threads)); });
}

void dora_column_norm(Weight& weight, py::handle adapter, py::handle norm, int num_threads) {
  const TensorView out = view(norm, "norm");
  const WeightView& base = weight.current();
  out.expect_shape({base.n});
  const cpu::NormTask task{base, adapter_view(adapter, py::none(), base), out.as<float>()};
  without_gil([&](const auto& kernels) { kernels.dora_column_norm(task, checked(num_threads)); });
}

// `outputs`: (loss, fp32 and one value; dhidden or None).
void linear_cross_entropy(py::handle hidden, py::handle head, py::handle labels,
                          double label_smoothing, const py::tuple& outputs, int num_threads) {
  const TensorView input = view(hidden, "hidden"), matrix = view(head, "head");
  const TensorView indices = view(labels, "labels"), loss = view(outputs[0], "loss");
  const int64_t m = rows_of(input), v = rows_of(matrix), k = matrix.shape[1];
  indices.expect_shape({m});
  loss.expect_shape({});
  const int64_t* const first = indices.as<int64_t>();
  for (const int64_t* label = first; label < first + m; ++label) {
    if (*label >= 0 && *label < v) continue;
    throw std::invalid_argument("labels: should be below " + std::to_string(v) + ", was " +
                                std::to_string(*label));
  }
  cpu::CrossEntropyTask task{input.matrix(m, k), matrix.matrix(v, k), first,
                             label_smoothing,    loss.as<float>(),    {}};
  if (!outputs[1].is_none()) task.dhidden = view(outputs[1], "dhidden").output(m, k);
  without_gil(
      [&](const auto& kernels) { kernels.linear_cross_entropy(task, checked(num_threads)); });
}

}  // namespace
}  // namespace qlora::bindings

PYBIND11_MODULE(_cpu, module) {
  using namespace qlora::bindings;
  module.doc() = "Native CPU kernels; qlora_kernels.native loads them.";
  py::class_<Tables>(module, "Tables")
      .def(py::init<const std::optional<std::vector<float>>&,
                    const std::array<float, qlora::NUM_CODES8>&, const std::vector<float>&>(),
           py::arg("codebook"), py::arg("dynamic_map"), py::arg("ratios") = std::vector<float>());
  py::class_<Weight>(module, "Weight")
      .def(py::init<const py::object&, const py::object&>(), py::arg("q"), py::arg("tables"));
  module.def("isa", [] { return std::string(qlora::cpu::kernels().name); });
  module.def("available_isas", qlora::cpu::available_isas);
  module.def("use_isa", qlora::cpu::use_isa, py::arg("name"));
  module.def("use_kernels", [](uintptr_t address) {
    qlora::cpu::use_kernels(*reinterpret_cast<const qlora::cpu::Kernels*>(address));
  });
  module.def("quantize", quantize);
  module.def("quantize_scales", quantize_scales);
  module.def("quantize_nested", quantize_nested);
  module.def("dequantize", dequantize);
  module.def("dropout_mask", dropout_mask);
  module.def("qlora_linear_forward", qlora_linear_forward);
  module.def("qlora_linear_backward", qlora_linear_backward);
  module.def("dora_column_norm", dora_column_norm);
  module.def("linear_cross_entropy", linear_cross_entropy);
  define_adamw(module);
  module.def(
      "philox4x32_10", [](const std::array<uint32_t, 4>& counter, uint32_t key0, uint32_t key1) {
        const auto words =
            qlora::philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key0, key1);
        return std::vector<uint32_t>(words.word, words.word + 4);
      });
}
