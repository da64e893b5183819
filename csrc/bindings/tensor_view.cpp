#include "tensor_view.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "dlpack.h"

namespace qlora::bindings {
namespace {

struct NamedType {
  const char* name;
  ScalarType type;
};

constexpr std::array<NamedType, 5> TYPES{{{"float32", ScalarType::float32},
                                          {"bfloat16", ScalarType::bfloat16},
                                          {"float16", ScalarType::float16},
                                          {"uint8", ScalarType::uint8},
                                          {"int64", ScalarType::int64}}};

const char* name_of(ScalarType type) {
  return TYPES[static_cast<size_t>(type)].name;
}

[[noreturn]] void refuse(const char* name, const std::string& should, const std::string& was) {
  throw std::invalid_argument(std::string(name) + ": should be " + should + ", was " + was);
}

// torch.dtype objects are singletons: compared by address.
ScalarType type_of(py::handle tensor, const char* name) {
  static const auto known = [] {
    const py::module_ torch = py::module_::import("torch");
    std::array<PyObject*, TYPES.size()> objects;
    for (size_t i = 0; i < TYPES.size(); ++i) {
      objects[i] = py::object(torch.attr(TYPES[i].name)).release().ptr();
    }
    return objects;
  }();
  static const Attribute attribute("dtype");
  const py::object dtype = attribute.of(tensor);
  for (size_t i = 0; i < TYPES.size(); ++i) {
    if (dtype.ptr() == known[i]) return TYPES[i].type;
  }
  refuse(name, "a tensor of float32, bfloat16, float16, uint8 or int64", py::str(dtype));
}

std::string text(const Shape& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    result += (i == 0 ? "" : ", ") + (shape[i] < 0 ? "..." : std::to_string(shape[i]));
  }
  return result + "]";
}

}  // namespace

Shape::Shape(std::initializer_list<int64_t> sizes) {
  for (const int64_t size : sizes) push_back(size);
}

void Shape::push_back(int64_t size) {
  if (count_ == sizes_.size()) {
    refuse("a tensor", "of at most " + std::to_string(sizes_.size()) + " dimensions", "of more");
  }
  sizes_[count_++] = size;
}

bool Shape::operator==(const Shape& other) const {
  return std::equal(begin(), end(), other.begin(), other.end());
}

namespace {
py::object checked(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}
}  // namespace

Attribute::Attribute(const char* name) : name_(PyUnicode_InternFromString(name)) {}

py::object Attribute::of(py::handle object) const {
  return checked(PyObject_GetAttr(object.ptr(), name_));
}

py::object Attribute::call(py::handle object) const {
  return checked(PyObject_CallMethodNoArgs(object.ptr(), name_));
}

int64_t TensorView::size() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

void TensorView::expect_shape(const Shape& expected) const {
  if (shape != expected) refuse(name, "of shape " + text(expected), text(shape));
}

ElementType TensorView::floating() const {
  switch (type) {
    case ScalarType::float32:
      return ElementType::float32;
    case ScalarType::bfloat16:
      return ElementType::bfloat16;
    case ScalarType::float16:
      return ElementType::float16;
    default:
      refuse(name, "float32, bfloat16 or float16", name_of(type));
  }
}

namespace {
void* data_of(const TensorView& tensor, ScalarType expected) {
  if (tensor.type != expected) refuse(tensor.name, name_of(expected), name_of(tensor.type));
  return tensor.data;
}
}  // namespace

template <>
float* TensorView::as<float>() const {
  return static_cast<float*>(data_of(*this, ScalarType::float32));
}
template <>
uint8_t* TensorView::as<uint8_t>() const {
  return static_cast<uint8_t*>(data_of(*this, ScalarType::uint8));
}
template <>
int64_t* TensorView::as<int64_t>() const {
  return static_cast<int64_t*>(data_of(*this, ScalarType::int64));
}

bool TensorView::has_rows(int64_t rows, int64_t columns) const {
  return !shape.empty() && shape.back() == columns && this->rows(columns) == rows;
}

int64_t TensorView::rows(int64_t columns) const {
  if (shape.empty() || shape.back() != columns) expect_shape({-1, columns});
  return std::accumulate(shape.begin(), shape.end() - 1, int64_t{1}, std::multiplies<>());
}

MatrixView TensorView::matrix(int64_t rows, int64_t columns) const {
  if (!has_rows(rows, columns)) expect_shape({rows, columns});
  return {data, floating(), rows, columns, columns};
}

MatrixView TensorView::row(int64_t columns) const {
  expect_shape({columns});
  return {data, floating(), 1, columns, columns};
}

MatrixView TensorView::flat(int64_t size) const {
  if (this->size() != size) refuse(name, "of " + std::to_string(size) + " elements", text(shape));
  return {data, floating(), 1, size, size};
}

OutputView TensorView::output(int64_t rows, int64_t columns) const {
  if (!has_rows(rows, columns)) expect_shape({rows, columns});
  return {data, floating(), rows, columns};
}

OutputView TensorView::output_row(int64_t columns) const {
  expect_shape({columns});
  return {data, floating(), 1, columns};
}

namespace {

// How torch describes tensors of its own two types, from the versions on that can.
struct TorchExchange {
  PyObject *tensor, *parameter;
  dlpack::Describe describe = nullptr;

  TorchExchange() {
    const py::module_ torch = py::module_::import("torch");
    tensor = py::object(torch.attr("Tensor")).release().ptr();
    parameter = py::object(torch.attr("nn").attr("Parameter")).release().ptr();
    const py::object capsule =
        py::getattr(py::handle(tensor), "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), dlpack::CAPSULE)) return;
    const auto* exchange =
        static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::CAPSULE));
    if (exchange->major == dlpack::MAJOR_VERSION) describe = exchange->describe;
  }

  bool takes(py::handle object) const {
    const auto* type = reinterpret_cast<const PyObject*>(Py_TYPE(object.ptr()));
    return describe != nullptr && (type == tensor || type == parameter);
  }
};

std::optional<ScalarType> type_of(dlpack::DataType type) {
  if (type.lanes != 1) return {};
  if (type.code == dlpack::FLOAT && type.bits == 32) return ScalarType::float32;
  if (type.code == dlpack::FLOAT && type.bits == 16) return ScalarType::float16;
  if (type.code == dlpack::BFLOAT && type.bits == 16) return ScalarType::bfloat16;
  if (type.code == dlpack::UNSIGNED && type.bits == 8) return ScalarType::uint8;
  if (type.code == dlpack::INT && type.bits == 64) return ScalarType::int64;
  return {};
}

bool is_contiguous(const dlpack::Tensor& tensor) {
  int64_t expected = 1;
  for (int32_t i = tensor.num_dimensions - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// The view, or nothing where torch cannot tell so or the tensor is not what a kernel takes: then
// its attributes say why.
std::optional<TensorView> described(py::handle object, const char* name) {
  static const TorchExchange exchange;
  if (!exchange.takes(object)) return {};
  dlpack::Tensor tensor;
  if (exchange.describe(object.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return {};
  }
  const std::optional<ScalarType> type = type_of(tensor.type);
  if (tensor.device.type != dlpack::CPU || !type || !is_contiguous(tensor)) return {};
  TensorView result{static_cast<uint8_t*>(tensor.data) + tensor.byte_offset, *type, {}, name};
  for (int32_t i = 0; i < tensor.num_dimensions; ++i) result.shape.push_back(tensor.shape[i]);
  if (tensor.data == nullptr && result.size() > 0) return {};
  return result;
}

}  // namespace

TensorView view(py::handle tensor, const char* name) {
  static const Attribute is_neg("is_neg");
  if (is_neg.call(tensor).ptr() == Py_True) {
    refuse(name, "of the values in memory", "of their negatives (torch's lazy negation)");
  }
  if (const std::optional<TensorView> known = described(tensor, name)) return *known;
  static const Attribute is_cpu("is_cpu"), is_contiguous("is_contiguous"), shape("shape");
  static const Attribute data_ptr("data_ptr");
  if (is_cpu.of(tensor).ptr() != Py_True) {
    refuse(name, "on the CPU", py::str(tensor.attr("device")));
  }
  if (is_contiguous.call(tensor).ptr() != Py_True) {
    refuse(name, "contiguous", "strided " + std::string(py::str(tensor.attr("stride")())));
  }
  TensorView result{nullptr, type_of(tensor, name), {}, name};
  const py::object sizes = shape.of(tensor);  // a torch.Size, which is a tuple of integers
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(sizes.ptr()); ++i) {
    result.shape.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(sizes.ptr(), i)));
  }
  result.data = PyLong_AsVoidPtr(data_ptr.call(tensor).ptr());
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  if (result.data == nullptr && result.size() > 0) refuse(name, "in memory", "freed");
  return result;
}

}  // namespace qlora::bindings
