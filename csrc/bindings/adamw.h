// The optimizer's kernels as functions and classes of the module.
#pragma once

#include <pybind11/pybind11.h>

namespace qlora::bindings {

void define_adamw(pybind11::module_& module);

}  // namespace qlora::bindings
