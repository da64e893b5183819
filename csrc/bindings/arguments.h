// The Python values that kernels take, as views: a format's tables, a quantized tensor, an adapter.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <optional>
#include <vector>

#include "../common/state_codec.h"
#include "../common/views.h"
#include "tensor_view.h"

namespace qlora::bindings {

// What a format's codes mean: sixteen values, or none for int8; what 8-bit scales mean; and the
// multiples of absmax among which a scale is searched, or none.
struct Tables {
  std::optional<Codebook> codebook;
  StateCodec<true> scales;
  std::vector<float> ratios;

  Tables(const std::optional<std::vector<float>>& codebook_values,
         const std::array<float, NUM_CODES8>& dynamic_map, const std::vector<float>& scale_ratios);

  const Codebook* codebook_or_null() const { return codebook ? &*codebook : nullptr; }
};

// A QuantizedTensor. It keeps its tensors alive and reads them anew for each call, since their
// memory may have moved (`tensor.data = ...`, sharding) while the Python objects stayed.
class Weight {
 public:
  Weight(const py::object& q, const py::object& format_tables);

  const WeightView& current();

 private:
  int64_t size() const { return view_.n * view_.k; }
  ScalesView current_scales() const;

  WeightView view_;
  const float* dynamic_map_;
  py::object codes_, scales_, nested_absmax_, nested_offset_, tables_;
};

// log2 of a block size; throws unless it is a power of two from 32 to 4096.
int block_shift_of(int64_t block_size);

// An Adapter and the seed of its dropout, for a weight [n, k]; None gives rank 0.
AdapterView adapter_view(py::handle adapter, py::handle seed, const WeightView& weight);

// The rule of a mask: seed is an int64 tensor with one value.
Dropout dropout_of(py::handle seed, double p);

}  // namespace qlora::bindings
