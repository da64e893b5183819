// What the files of the module _cuda share: addresses come from Python as integers.
#pragma once

#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <cstdint>

namespace qlora::bindings {

namespace py = pybind11;

template <class Value>
Value* pointer(uintptr_t address) {
  return reinterpret_cast<Value*>(address);
}

inline cudaStream_t stream_of(uintptr_t stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

void define_adamw(py::module_& module);
void define_linear(py::module_& module);

}  // namespace qlora::bindings
