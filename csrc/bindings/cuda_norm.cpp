#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "../cuda/dora_column_norm.h"
#include "cuda.h"

namespace qlora::bindings {
namespace {

// `adapter`: (a, b, scaling); `addresses`: of norm, of what splits meet in, of their arrivals.
void dora_column_norm(const cuda::Weight& weight, const std::tuple<Matrix, Matrix, float>& adapter,
                      int64_t splits, const std::array<uintptr_t, 3>& addresses, uintptr_t stream) {
  const auto& [a, b, scaling] = adapter;
  const cuda::NormTask task{weight,
                            {matrix_of(a), matrix_of(b), std::get<2>(a), scaling},
                            splits,
                            pointer<float>(addresses[0]),
                            pointer<float>(addresses[1]),
                            pointer<uint32_t>(addresses[2])};
  cuda::dora_column_norm(task, stream_of(stream));
}

}  // namespace

void define_norm(py::module_& module) {
  module.attr("NORM_ROWS") = cuda::NORM_ROWS;
  module.attr("NORM_COLUMNS") = cuda::NORM_COLUMNS;
  module.def("dora_column_norm", dora_column_norm);
}

}  // namespace qlora::bindings
