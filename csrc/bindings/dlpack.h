// The part of DLPack's C exchange that describes a tensor without making a Python object
// (github.com/dmlc/dlpack, version 1.3; torch 2.10 and later have it as
// `torch.Tensor.__dlpack_c_exchange_api__`). A stable ABI, so no header of torch's is needed.
#pragma once

#include <cstdint>

namespace qlora::bindings::dlpack {

constexpr int32_t CPU = 1;
constexpr uint32_t MAJOR_VERSION = 1;
constexpr const char* CAPSULE = "dlpack_exchange_api";

enum TypeCode : uint8_t { INT = 0, UNSIGNED = 1, FLOAT = 2, BFLOAT = 4 };

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t num_dimensions;
  DataType type;
  int64_t *shape, *strides;  // the tensor's own
  uint64_t byte_offset;
};

// Fills *result; -1 and a Python error where the tensor has no such description.
using Describe = int (*)(void* tensor, Tensor* result);

struct Exchange {
  uint32_t major, minor;
  const void* older;
  void *allocate, *export_owned, *import_owned;
  Describe describe;  // may be null
};

}  // namespace qlora::bindings::dlpack
