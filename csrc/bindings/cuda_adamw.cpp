#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <variant>

#include "../cuda/adamw8bit.h"
#include "cuda.h"

namespace qlora::bindings {
namespace {

using Guard = std::tuple<double, std::array<uintptr_t, 5>>;

// `tables`: addresses of the segments, their numbers and the tables of codes; `gate`: of scale and
// skip, or `guard`: the largest norm, and addresses of grad_scale and found_inf or 0, of what
// thread blocks share, of their arrivals, and of what is decided.
void adamw_step(const std::array<uintptr_t, 3>& tables, int64_t num_segments, int64_t num_blocks,
                const std::variant<std::array<uintptr_t, 2>, Guard>& gate, uintptr_t stream) {
  cuda::AdamWTask task{pointer<const cuda::AdamWSegment>(tables[0]),
                       pointer<const cuda::AdamWNumbers>(tables[1]),
                       num_segments,
                       num_blocks,
                       pointer<const cuda::StateTables>(tables[2]),
                       nullptr,
                       nullptr,
                       {}};
  if (const auto* decided = std::get_if<0>(&gate)) {
    task.scale = pointer<const float>((*decided)[0]);
    task.skip = pointer<const float>((*decided)[1]);
  } else {
    const auto& [max_norm, places] = std::get<1>(gate);
    task.guard = {pointer<double>(places[2]),
                  pointer<uint32_t>(places[3]),
                  max_norm,
                  pointer<const float>(places[0]),
                  pointer<const float>(places[1]),
                  pointer<float>(places[4])};
  }
  cuda::adamw_step(task, stream_of(stream));
}

// `places`: addresses of the segments, of what thread blocks share, of their arrivals, of the sum.
void squared_norm(const std::array<uintptr_t, 4>& places, int64_t num_segments, int64_t num_blocks,
                  uintptr_t stream) {
  cuda::AdamWTask task{};
  task.segments = pointer<const cuda::AdamWSegment>(places[0]);
  task.num_segments = num_segments;
  task.num_blocks = num_blocks;
  task.guard.partial = pointer<double>(places[1]);
  task.guard.arrivals = pointer<uint32_t>(places[2]);
  cuda::squared_norm(task, pointer<double>(places[3]), stream_of(stream));
}

// The first cell, how many there are, and the bits of the mantissa in a cell's number.
template <bool SIGNED>
std::array<int, 3> cells() {
  using Cells = cuda::StateCells<SIGNED>;
  return {Cells::FIRST, Cells::COUNT, Cells::MANTISSA};
}

}  // namespace

void define_adamw(py::module_& module) {
  module.attr("SIGNED_CELLS") = cells<true>();
  module.attr("UNSIGNED_CELLS") = cells<false>();
  module.attr("MOST_CELLS") = cuda::MOST_CELLS;
  module.def("adamw_thread_blocks", cuda::adamw_thread_blocks);
  module.def("adamw_step", adamw_step);
  module.def("squared_norm", squared_norm);
}

}  // namespace qlora::bindings
