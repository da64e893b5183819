#include "adamw.h"

#include <pybind11/stl.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "running.h"
#include "tensor_view.h"

namespace qlora::bindings {
namespace {

// The dynamic maps of exp_avg and exp_avg_sq with their cells.
struct StateMaps {
  StateCodec<true> first;
  StateCodec<false> second;

  StateMaps(const std::array<float, NUM_CODES8>& with_signs,
            const std::array<float, NUM_CODES8>& without_signs)
      : first(with_signs.data()), second(without_signs.data()) {}
};

// A Segment as kernels take it, read once for many steps: valid while the Segment lives.
struct SegmentView {
  cpu::AdamWSegment segment{};
  const float* step;

  explicit SegmentView(const py::object& source) {
    const auto tensor = [&](const char* name) { return view(source.attr(name), name); };
    const TensorView parameter = tensor("parameter");
    const int64_t size = parameter.size();
    segment.parameter = parameter.output_row(size);
    step = tensor("step").as<float>();
    const auto optional = [&](const char* name, int64_t length) -> float* {
      if (source.attr(name).is_none()) return nullptr;
      const TensorView values = tensor(name);
      values.expect_shape({length});
      return values.as<float>();
    };
    const int64_t num_blocks = (size + STATE_BLOCK - 1) / STATE_BLOCK;
    segment.master = optional("master", size);
    segment.exp_avg_absmax = optional("exp_avg_absmax", num_blocks);
    segment.exp_avg_sq_absmax = optional("exp_avg_sq_absmax", num_blocks);
    const bool is_quantized = !source.attr("exp_avg_absmax").is_none();
    const auto state = [&](const char* name) -> void* {
      const TensorView values = tensor(name);
      values.expect_shape({size});
      if (is_quantized) return values.as<uint8_t>();
      return values.as<float>();
    };
    segment.exp_avg = state("exp_avg");
    segment.exp_avg_sq = state("exp_avg_sq");
  }
};

// (lr, beta1, beta2, eps, weight_decay)
using Hyperparameters = std::tuple<double, double, double, double, double>;

cpu::AdamWRates rates_of(const Hyperparameters& hyper, double step) {
  const auto [lr, beta1, beta2, eps, weight_decay] = hyper;
  const auto rounded = [](double value) { return static_cast<float>(value); };
  return {rounded(1 - lr * weight_decay),
          rounded(1 - beta1),
          rounded(beta2),
          rounded(1 - beta2),
          rounded(std::sqrt(1 - std::pow(beta2, step))),
          rounded(eps),
          rounded(-lr / (1 - std::pow(beta1, step)))};
}

// `work`: tuples (segment view, gradient, hyperparameters).
void adamw_step(const StateMaps& maps, const py::list& work, float gradient_scale,
                int num_threads) {
  cpu::AdamWTask task{{}, &maps.first, &maps.second, gradient_scale};
  task.segments.reserve(work.size());
  for (const py::handle item : work) {
    const auto parts = py::reinterpret_borrow<py::tuple>(item);
    const auto& source = parts[0].cast<const SegmentView&>();
    cpu::AdamWSegment& segment = task.segments.emplace_back(source.segment);
    segment.gradient = view(parts[1], "gradient").row(segment.size());
    segment.rates = rates_of(parts[2].cast<Hyperparameters>(), static_cast<double>(*source.step));
  }
  without_gil([&](const auto& kernels) { kernels.adamw_step(task, checked(num_threads)); });
}

double squared_norm(const py::list& gradients, int num_threads) {
  std::vector<MatrixView> views;
  for (const py::handle gradient : gradients) {
    const TensorView values = view(gradient, "gradient");
    views.push_back({values.data, values.floating(), 1, values.size(), values.size()});
  }
  return without_gil(
      [&](const auto& kernels) { return kernels.squared_norm(views, checked(num_threads)); });
}

}  // namespace

void define_adamw(py::module_& module) {
  py::class_<StateMaps>(module, "StateMaps")
      .def(py::init<const std::array<float, NUM_CODES8>&, const std::array<float, NUM_CODES8>&>(),
           py::arg("signed_map"), py::arg("unsigned_map"))
      .def("encode", [](const StateMaps& maps, bool is_signed, float scaled) {
        return is_signed ? maps.first.encode(scaled) : maps.second.encode(scaled);
      });
  py::class_<SegmentView>(module, "SegmentView").def(py::init<const py::object&>());
  module.def("adamw_step", adamw_step);
  module.def("squared_norm", squared_norm);
}

}  // namespace qlora::bindings
