// The module of the kernels that test the emulation itself.
#include "probes.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "block.h"

PYBIND11_MODULE(_probes, module) {
  module.def("probe", probe);
  module.def("probe_grid", probe_grid);
  module.def("set_schedule", emulation::set_schedule);
}
