// torch tensors as pointers and sizes, read through their Python attributes: no torch header, so
// that one build serves every torch. Everything a kernel relies on for memory safety is checked
// here.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../common/views.h"

namespace qlora::bindings {

namespace py = pybind11;

enum class ScalarType : uint8_t { float32, bfloat16, float16, uint8, int64 };

// A contiguous CPU tensor. Valid while the Python object lives.
struct TensorView {
  void* data;
  ScalarType type;
  std::vector<int64_t> shape;
  std::string name;  // for messages: "dequantize: out"

  int64_t size() const;

  // These raise a ValueError unless the tensor is what is asked for.
  template <class Element>
  Element* as() const;
  ElementType floating() const;
  void expect_shape(const std::vector<int64_t>& expected) const;
};

// Throws ValueError `name: should be ..., was ...` unless the tensor is contiguous and on the CPU.
TensorView view(py::handle tensor, const std::string& name);

MatrixView matrix(py::handle tensor, const std::string& name, int64_t rows, int64_t columns);
OutputView output(py::handle tensor, const std::string& name, int64_t rows, int64_t columns);

}  // namespace qlora::bindings
