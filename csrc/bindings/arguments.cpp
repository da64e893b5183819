#include "arguments.h"

#include <pybind11/stl.h>

#include <bit>
#include <stdexcept>

namespace qlora::bindings {
namespace {

int64_t ceil_divide(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

ScalesView scales_view(py::handle q, int64_t num_blocks, const float* dynamic_map) {
  const TensorView scales = view(q.attr("scales"), "scales");
  scales.expect_shape({num_blocks});
  ScalesView result;
  const py::object nested_absmax = q.attr("nested_absmax");
  if (nested_absmax.is_none()) {
    result.absmax = scales.as<float>();
    return result;
  }
  const TensorView nested = view(nested_absmax, "nested_absmax");
  nested.expect_shape({ceil_divide(num_blocks, NESTED_BLOCK)});
  const TensorView offset = view(q.attr("nested_offset"), "nested_offset");
  offset.expect_shape({});
  result.codes = scales.as<uint8_t>();
  result.nested_absmax = nested.as<float>();
  result.map = dynamic_map;
  result.offset = *offset.as<float>();
  return result;
}

}  // namespace

Tables::Tables(const std::optional<std::vector<float>>& codebook_values,
               const std::vector<float>& map_values, const std::vector<float>& scale_ratios)
    : ratios(scale_ratios) {
  if (map_values.size() != dynamic_map.size()) {
    throw std::invalid_argument("Tables: dynamic_map should have 256 values, had " +
                                std::to_string(map_values.size()));
  }
  std::copy(map_values.begin(), map_values.end(), dynamic_map.begin());
  if (!codebook_values) return;
  if (codebook_values->size() != NUM_CODES) {
    throw std::invalid_argument("Tables: codebook should have 16 values, had " +
                                std::to_string(codebook_values->size()));
  }
  codebook = Codebook::of(codebook_values->data());
  rounded = RoundedCodebook::of(codebook_values->data());
}

int block_shift_of(int64_t block_size) {
  if (block_size < 32 || block_size > 4096 ||
      !std::has_single_bit(static_cast<uint64_t>(block_size))) {
    throw std::invalid_argument("block_size: should be a power of two from 32 to 4096, was " +
                                std::to_string(block_size));
  }
  return std::countr_zero(static_cast<uint64_t>(block_size));
}

Weight::Weight(const py::object& q, const py::object& format_tables)
    : quantized_tensor(q), tables(format_tables) {
  const auto& format = tables.cast<const Tables&>();
  const auto shape = q.attr("shape").cast<std::vector<int64_t>>();
  view.k = shape.empty() ? 1 : shape.back();
  view.n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) view.n *= shape[i];
  view.block_shift = block_shift_of(q.attr("block_size").cast<int64_t>());
  view.codebook = format.codebook_or_null();
  view.rounded = &format.rounded;

  const int64_t size = view.n * view.k;
  const TensorView codes = bindings::view(q.attr("codes"), "codes");
  codes.expect_shape({view.codebook != nullptr ? ceil_divide(size, 2) : size, 1});
  view.codes = codes.as<uint8_t>();
  view.scales = scales_view(q, ceil_divide(size, view.block_size()), format.dynamic_map.data());
}

AdapterView adapter_view(py::handle adapter, py::handle seed, const WeightView& weight) {
  AdapterView result;
  if (adapter.is_none()) return result;
  const TensorView a = view(adapter.attr("a"), "a");
  result.rank = a.shape.empty() ? 0 : a.shape[0];
  result.a = a.matrix(result.rank, weight.k);
  result.b = view(adapter.attr("b"), "b").matrix(weight.n, result.rank);
  result.scaling = adapter.attr("scaling").cast<float>();
  if (seed.is_none()) return result;
  const bool on_input = adapter.attr("dropout_on").cast<std::string>() == "input";
  result.dropout_on = on_input ? DropoutOn::input : DropoutOn::rank;
  result.dropout = dropout_of(seed, adapter.attr("dropout").cast<double>());
  return result;
}

Dropout dropout_of(py::handle seed, double p) {
  const TensorView tensor = view(seed, "seed");
  if (tensor.size() != 1) tensor.expect_shape({});
  if (!(p >= 0.0 && p < 1.0)) {
    throw std::invalid_argument("p: should be in [0, 1), was " + std::to_string(p));
  }
  return Dropout::of(static_cast<uint64_t>(*tensor.as<int64_t>()), p);
}

}  // namespace qlora::bindings
