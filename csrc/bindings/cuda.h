// What the files of the module _cuda share: addresses come from Python as integers.
#pragma once

#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "../common/views.h"

namespace qlora::bindings {

namespace py = pybind11;

template <class Value>
Value* pointer(uintptr_t address) {
  return reinterpret_cast<Value*>(address);
}

inline cudaStream_t stream_of(uintptr_t stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

// Address, dtype, rows, columns: rows are contiguous.
using Matrix = std::tuple<uintptr_t, ElementType, int64_t, int64_t>;

inline MatrixView matrix_of(const Matrix& matrix) {
  const auto [address, type, rows, columns] = matrix;
  return {pointer<const void>(address), type, rows, columns, columns};
}

void define_adamw(py::module_& module);
void define_linear(py::module_& module);
void define_norm(py::module_& module);

}  // namespace qlora::bindings
