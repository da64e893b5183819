#include "arguments.h"

#include <pybind11/stl.h>

#include <bit>
#include <stdexcept>

namespace qlora::bindings {
namespace {

int64_t ceil_divide(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

}  // namespace

Tables::Tables(const std::optional<std::vector<float>>& codebook_values,
               const std::array<float, NUM_CODES8>& dynamic_map,
               const std::vector<float>& scale_ratios)
    : scales(dynamic_map.data()), ratios(scale_ratios) {
  if (!codebook_values) return;
  if (codebook_values->size() != NUM_CODES) {
    throw std::invalid_argument("Tables: codebook should have 16 values, had " +
                                std::to_string(codebook_values->size()));
  }
  codebook = Codebook::of(codebook_values->data());
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
    : codes_(q.attr("codes")),
      scales_(q.attr("scales")),
      nested_absmax_(q.attr("nested_absmax")),
      nested_offset_(q.attr("nested_offset")),
      tables_(format_tables) {
  const auto& format = tables_.cast<const Tables&>();
  const auto shape = q.attr("shape").cast<std::vector<int64_t>>();
  view_.k = shape.empty() ? 1 : shape.back();
  view_.n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) view_.n *= shape[i];
  view_.block_shift = block_shift_of(q.attr("block_size").cast<int64_t>());
  view_.codebook = format.codebook_or_null();
  dynamic_map_ = format.scales.map;
  current();
}

const WeightView& Weight::current() {
  const TensorView codes = view(codes_, "codes");
  codes.expect_shape({view_.codebook != nullptr ? ceil_divide(size(), 2) : size(), 1});
  view_.codes = codes.as<uint8_t>();
  view_.scales = current_scales();
  return view_;
}

ScalesView Weight::current_scales() const {
  const int64_t num_blocks = ceil_divide(size(), view_.block_size());
  const TensorView scales = view(scales_, "scales");
  scales.expect_shape({num_blocks});
  ScalesView result;
  if (nested_absmax_.is_none()) {
    result.absmax = scales.as<float>();
    return result;
  }
  const TensorView nested = view(nested_absmax_, "nested_absmax");
  nested.expect_shape({ceil_divide(num_blocks, NESTED_BLOCK)});
  const TensorView offset = view(nested_offset_, "nested_offset");
  offset.expect_shape({});
  result.codes = scales.as<uint8_t>();
  result.nested_absmax = nested.as<float>();
  result.map = dynamic_map_;
  result.offset = *offset.as<float>();
  return result;
}

AdapterView adapter_view(py::handle adapter, py::handle seed, const WeightView& weight) {
  static const Attribute factor_a("a"), factor_b("b"), scaling("scaling");
  AdapterView result;
  if (adapter.is_none()) return result;
  const TensorView a = view(factor_a.of(adapter), "a");
  if (a.shape.size() != 2) a.expect_shape({-1, weight.k});
  result.rank = a.shape[0];
  result.a = a.matrix(result.rank, weight.k);
  const TensorView b = view(factor_b.of(adapter), "b");
  b.expect_shape({weight.n, result.rank});
  result.b = b.matrix(weight.n, result.rank);
  result.scaling = scaling.of(adapter).cast<float>();
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
