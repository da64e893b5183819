// How a kernel is called: chosen once, without the GIL, on a checked number of threads.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "../cpu/kernels.h"

namespace qlora::bindings {

template <class Call>
auto without_gil(const Call& call) {
  const cpu::Kernels& kernels =
      cpu::kernels();  // May throw for QLORA_CPU_ISA: before anything runs.
  const pybind11::gil_scoped_release release;
  return call(kernels);
}

inline int checked(int num_threads) {
  if (num_threads >= 1) return num_threads;
  throw std::invalid_argument("num_threads: should be at least 1, was " +
                              std::to_string(num_threads));
}

}  // namespace qlora::bindings
