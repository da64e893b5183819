#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "../cuda/qlora_linear.h"
#include "cuda.h"

namespace qlora::bindings {
namespace {

using cuda::LinearPlan;
using cuda::LinearTask;

// `adapter`: (a, b, scaling); `dropout`: (where, p, address of the seed) or None.
LinearTask task_of(const Matrix& x, const cuda::Weight& weight, float factor,
                   const std::optional<std::tuple<Matrix, Matrix, float>>& adapter,
                   const std::optional<std::tuple<std::string, double, uintptr_t>>& dropout) {
  LinearTask task;
  task.x = matrix_of(x);
  task.weight = weight;
  task.factor = factor;
  if (task.x.rows > cuda::LINEAR_MAX_ROWS) {
    throw std::invalid_argument("x: should have at most " + std::to_string(cuda::LINEAR_MAX_ROWS) +
                                " rows, had " + std::to_string(task.x.rows));
  }
  if (!adapter) return task;
  const auto& [a, b, scaling] = *adapter;
  task.adapter = {matrix_of(a), matrix_of(b), std::get<2>(a), scaling};
  if (!dropout) return task;
  const auto& [where, p, seed] = *dropout;
  task.adapter.dropout_on = where == "input" ? DropoutOn::input : DropoutOn::rank;
  task.adapter.dropout = Dropout::of(0, p);
  task.seed = pointer<const int64_t>(seed);
  return task;
}

// `rows`: (bias or None, address of the output scale or 0); `workspace`: addresses of sums,
// shares of h, h and arrivals.
void qlora_linear(LinearTask task, const std::tuple<std::optional<Matrix>, uintptr_t>& rows,
                  uintptr_t y, const LinearPlan& plan, const std::array<uintptr_t, 4>& workspace,
                  uintptr_t stream) {
  const auto& [bias, output_scale] = rows;
  if (bias) task.bias = matrix_of(*bias);
  task.output_scale = pointer<const float>(output_scale);
  task.y = {pointer<void>(y), task.x.type, task.x.rows, task.weight.n};
  task.plan = plan;
  task.workspace = {pointer<float>(workspace[0]), pointer<float>(workspace[1]),
                    pointer<float>(workspace[2]), pointer<uint32_t>(workspace[3])};
  cuda::qlora_linear(task, stream_of(stream));
}

}  // namespace

void define_linear(py::module_& module) {
  py::class_<LinearPlan>(module, "LinearPlan", py::module_local())
      .def(py::init([](bool is_whole, int strips, int splits, int shares, int share_columns) {
        return LinearPlan{is_whole, strips, splits, shares, share_columns};
      }));
  py::class_<LinearTask>(module, "LinearTask", py::module_local()).def(py::init(&task_of));
  module.def("qlora_linear", qlora_linear);
}

}  // namespace qlora::bindings
