#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "../cuda/adamw8bit.h"
#include "cuda.h"

namespace qlora::bindings {
namespace {

// `tables`: addresses of the segments, their numbers and the tables of codes; `gate`: of scale and
// skip.
void adamw_step(const std::array<uintptr_t, 3>& tables, int64_t num_segments, int64_t num_blocks,
                const std::array<uintptr_t, 2>& gate, uintptr_t stream) {
  cuda::adamw_step(
      {pointer<const cuda::AdamWSegment>(tables[0]), pointer<const cuda::AdamWNumbers>(tables[1]),
       num_segments, num_blocks, pointer<const cuda::StateTables>(tables[2]),
       pointer<const float>(gate[0]), pointer<const float>(gate[1])},
      stream_of(stream));
}

}  // namespace

void define_adamw(py::module_& module) {
  module.def("adamw_step", adamw_step);
}

}  // namespace qlora::bindings
