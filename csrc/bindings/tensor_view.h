// torch tensors as pointers and sizes, read through DLPack's C interface or else through their
// Python attributes: no torch header, so that one build serves every torch. Everything a kernel
// relies on for memory safety is checked here.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "../common/views.h"

namespace qlora::bindings {

namespace py = pybind11;

enum class ScalarType : uint8_t { float32, bfloat16, float16, uint8, int64 };

// The sizes of a tensor, without an allocation for each of the many that a call reads.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes);

  void push_back(int64_t size);  // throws beyond the dimensions that there is room for
  size_t size() const { return count_; }
  bool empty() const { return count_ == 0; }
  int64_t operator[](size_t i) const { return sizes_[i]; }
  int64_t back() const { return sizes_[count_ - 1]; }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return begin() + count_; }
  bool operator==(const Shape& other) const;

 private:
  std::array<int64_t, 8> sizes_{};
  size_t count_ = 0;
};

// An attribute whose name is hashed once: a call reads several of each of its tensors.
class Attribute {
 public:
  explicit Attribute(const char* name);
  py::object of(py::handle object) const;
  py::object call(py::handle object) const;

 private:
  PyObject* name_;  // never released: it lives as long as the module
};

// A contiguous CPU tensor, valid while the Python object lives. Its methods raise a ValueError
// `name: should be ..., was ...` unless it is what they ask for.
struct TensorView {
  void* data;
  ScalarType type;
  Shape shape;
  const char* name;

  int64_t size() const;
  void expect_shape(const Shape& expected) const;
  ElementType floating() const;
  template <class Element>
  Element* as() const;

  // The rows of a tensor [..., columns], all leading dimensions as one.
  int64_t rows(int64_t columns) const;

  // A floating-point [..., columns] of so many rows to read or to write, and a vector as one row.
  MatrixView matrix(int64_t rows, int64_t columns) const;
  MatrixView row(int64_t columns) const;
  MatrixView flat(int64_t size) const;  // as a row, whatever its shape
  OutputView output(int64_t rows, int64_t columns) const;
  OutputView output_row(int64_t columns) const;

 private:
  bool has_rows(int64_t rows, int64_t columns) const;
};

// Throws ValueError `name: should be ..., was ...` unless the tensor is contiguous and on the CPU.
TensorView view(py::handle tensor, const char* name);

}  // namespace qlora::bindings
