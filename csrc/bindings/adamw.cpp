#include "adamw.h"

#include <pybind11/stl.h>

#include <cerrno>
#include <cmath>
#include <optional>
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
  float* step;

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

const SegmentView& segment_of(py::handle item) {
  return py::reinterpret_borrow<py::tuple>(item)[0].cast<const SegmentView&>();
}

// `work`: tuples (segment view, gradient, hyperparameters). The step is that many after those
// counted.
cpu::AdamWTask task_of(const StateMaps& maps, const py::list& work, float gradient_scale,
                       float uncounted = 0) {
  cpu::AdamWTask task{{}, &maps.first, &maps.second, gradient_scale, {}};
  task.segments.reserve(work.size());
  for (const py::handle item : work) {
    const auto parts = py::reinterpret_borrow<py::tuple>(item);
    const SegmentView& source = segment_of(item);
    cpu::AdamWSegment& segment = task.segments.emplace_back(source.segment);
    segment.gradient = view(parts[1], "gradient").flat(segment.size());
    segment.rates = rates_of(parts[2].cast<Hyperparameters>(), *source.step + uncounted);
  }
  return task;
}

void adamw_step(const StateMaps& maps, const py::list& work, float gradient_scale,
                int num_threads) {
  const cpu::AdamWTask task = task_of(maps, work, gradient_scale);
  without_gil([&](const auto& kernels) { kernels.adamw_step(task, checked(num_threads)); });
}

// Counts the step on each segment, once all of `work` is found right.
void counted_adamw_step(const StateMaps& maps, const py::list& work, float gradient_scale,
                        int num_threads) {
  const cpu::AdamWTask task = task_of(maps, work, gradient_scale, 1);
  for (const py::handle item : work) *segment_of(item).step += 1;
  without_gil([&](const auto& kernels) { kernels.adamw_step(task, checked(num_threads)); });
}

// (descriptor, room uint8 [bytes], for each segment the shift of its states or None)
using InFile = std::tuple<int, py::object, std::vector<std::optional<int64_t>>>;

// Returns how many reads waited for the disk.
int64_t adamw_step_in_file(const StateMaps& maps, const py::list& work, float gradient_scale,
                           const InFile& where, int num_threads) {
  const auto& [descriptor, memory, shifts] = where;
  cpu::AdamWTask task = task_of(maps, work, gradient_scale);
  const TensorView room = view(memory, "room");
  room.expect_shape({room.size()});
  if (shifts.size() != task.segments.size())
    throw std::invalid_argument("shifts: should be one for each segment, were " +
                                std::to_string(shifts.size()));
  for (size_t i = 0; i < shifts.size(); ++i) {
    cpu::AdamWSegment& segment = task.segments[i];
    segment.file_shift = shifts[i];
    if (shifts[i] && segment.block_bytes() > room.size())
      throw std::invalid_argument("room: should have the " + std::to_string(segment.block_bytes()) +
                                  " bytes of a block, had " + std::to_string(room.size()));
  }
  cpu::StateFile file(descriptor);
  task.states = {&file, {room.as<uint8_t>(), static_cast<size_t>(room.size())}};
  without_gil([&](const auto& kernels) { kernels.adamw_step(task, checked(num_threads)); });
  if (file.error() != 0) {
    errno = file.error();
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
  return file.waits();
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
  module.def("counted_adamw_step", counted_adamw_step);
  module.def("adamw_step_in_file", adamw_step_in_file);
  module.def("squared_norm", squared_norm);
}

}  // namespace qlora::bindings
