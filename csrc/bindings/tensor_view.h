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

// A contiguous CPU tensor, valid while the Python object lives. Its methods raise a ValueError
// `name: should be ..., was ...` unless it is what they ask for.
struct TensorView {
  void* data;
  ScalarType type;
  std::vector<int64_t> shape;
  const char* name;

  int64_t size() const;
  void expect_shape(const std::vector<int64_t>& expected) const;
  ElementType floating() const;
  template <class Element>
  Element* as() const;

  // A floating-point [rows, columns] to read or to write, and a vector as one row.
  MatrixView matrix(int64_t rows, int64_t columns) const;
  MatrixView row(int64_t columns) const;
  OutputView output(int64_t rows, int64_t columns) const;
  OutputView output_row(int64_t columns) const;
};

// Throws ValueError `name: should be ..., was ...` unless the tensor is contiguous and on the CPU.
TensorView view(py::handle tensor, const char* name);

}  // namespace qlora::bindings
