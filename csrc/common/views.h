// What kernels are given: pointers, sizes and strides. Nothing here owns memory.
#pragma once

#include <cstdint>

#include "blockwise8.h"
#include "element.h"
#include "nf4.h"
#include "philox.h"

namespace qlora {

// Row-major elements; rows are contiguous and `stride` elements apart.
struct MatrixView {
  const void* data = nullptr;
  ElementType type = ElementType::float32;
  int64_t rows = 0, columns = 0, stride = 0;
};

struct OutputView {
  void* data = nullptr;
  ElementType type = ElementType::float32;
  int64_t rows = 0, columns = 0;
};

// Block scales: absmax in fp32, or codes of the dynamic map with a scale per 256 and one offset.
struct ScalesView {
  const float* absmax = nullptr;
  const uint8_t* codes = nullptr;  // null: absmax is plain
  const float* nested_absmax = nullptr;
  const float* map = nullptr;
  float offset = 0;

  float at(int64_t block) const {
    if (codes == nullptr) return absmax[block];
    return decode_scale(map, codes[block], nested_absmax[block / NESTED_BLOCK], offset);
  }
};

// A quantized weight [n, k]; blocks run over the flattened elements and may straddle rows.
struct WeightView {
  const uint8_t* codes = nullptr;
  const Codebook* codebook = nullptr;  // null: the codes are int8
  ScalesView scales;
  int64_t n = 0, k = 0;
  int block_shift = 0;  // block size = 2^block_shift

  int64_t block_size() const { return int64_t{1} << block_shift; }

  // What a code's value is multiplied by, for the block of the flat index `index`.
  float scale_at(int64_t index) const {
    const float absmax = scales.at(index >> block_shift);
    return codebook != nullptr ? absmax : int8_step(absmax);
  }
};

enum class DropoutOn : uint8_t { nothing, rank, input };

// A low-rank adapter: a [rank, k], b [n, rank]; rank 0 means that there is none.
struct AdapterView {
  MatrixView a, b;
  int64_t rank = 0;
  float scaling = 0;
  DropoutOn dropout_on = DropoutOn::nothing;
  Dropout dropout;
};

}  // namespace qlora
