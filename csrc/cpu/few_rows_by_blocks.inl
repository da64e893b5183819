// A few rows of x and a block of codes at a time, by byte shuffles; and the adapter's products with
// few rows, which need no packing either.

// Whether rows of W are whole blocks of BLOCK_CODES codes of one scale, and walked as such.
inline bool takes_code_blocks(const WeightView& weight) {
  return WALKS_BLOCKS && weight.codebook != nullptr && weight.k % BLOCK_CODES == 0 &&
         weight.block_size() >= BLOCK_CODES;
}

// A few rows of x as the threads share them.
struct FewRows {
  int64_t num_rows, k;
  ElementType type;  // of x: 16-bit values are multiplied as whole numbers
  float* rows;       // [num_rows, k]
  float* places;     // [num_rows, k]: the same as FloatBlocks or WordBlocks reads them
  float* scales;     // [num_rows, k / BLOCK_CODES]: of words
  float* is_exact;   // [num_rows]: 0 where words cannot stand for a row

  static int64_t size(int64_t num_rows, int64_t k) {
    return num_rows * (2 * k + k / BLOCK_CODES + 1);
  }
  FewRows(const MatrixView& x, int64_t count, float* memory)
      : num_rows(count),
        k(x.columns),
        type(x.type),
        rows(memory),
        places(rows + count * k),
        scales(places + count * k),
        is_exact(scales + count * (k / BLOCK_CODES)) {}

  bool has_words() const { return type != ElementType::float32; }
  int16_t* words() const { return reinterpret_cast<int16_t*>(places); }
  bool all_exact() const {
    return std::all_of(is_exact, is_exact + num_rows, [](float e) { return e != 0; });
  }

  // Prepares one row, which lies in `rows`.
  void place(int64_t row) const {
    const float* source = rows + row * k;
    if (has_words()) {
      const int64_t num_blocks = k / BLOCK_CODES;
      is_exact[row] = place_words(source, num_blocks, least_fine_word(type), words() + row * k,
                                  scales + row * num_blocks);
      return;
    }
    for (int64_t i = 0; i < k / BLOCK_CODES * BLOCK_CODES; ++i) {
      const int64_t within = i % BLOCK_CODES;
      places[row * k + i - within + FloatBlocks::place(within)] = source[i];
    }
  }
};

// scales[i] = that of the block of codes i from the flat index `first` on.
inline void decode_scales(const WeightView& weight, int64_t first, int64_t count, float* scales) {
  if (weight.block_size() == BLOCK_CODES) {
    return read_scales(weight.scales, first / BLOCK_CODES, count, scales);
  }
  for (int64_t i = 0; i < count; ++i) scales[i] = weight.scale_at(first + i * BLOCK_CODES);
}

// sums[i * TILE_COLUMNS] += factor * <x[i], W[n]>, over the places of x. The factor multiplies
// each block: without it, the sum of words could leave the range of floats.
template <int ROWS, class Blocks>
inline void add_block_dots(const WeightView& weight, const Blocks& blocks, int64_t n,
                           const FewRows& x, float factor, float* sums) {
  constexpr int64_t CHUNK = 64;
  const int64_t num_blocks = weight.k / BLOCK_CODES;
  const uint8_t* codes = weight.codes + n * weight.k / 2;
  const auto* values = reinterpret_cast<const typename Blocks::Value*>(x.places);
  BlockSum totals[ROWS] = {};
  for (int64_t first = 0; first < num_blocks; first += CHUNK) {
    const int64_t count = std::min(CHUNK, num_blocks - first);
    float scales[ROWS + 1][CHUNK];
    decode_scales(weight, n * weight.k + first * BLOCK_CODES, count, scales[ROWS]);
    for (int row = 0; row < ROWS; ++row) {
      const float* own = x.scales + row * num_blocks + first;
      for (int64_t i = 0; i < count; ++i)
        scales[row][i] = scales[ROWS][i] * (x.has_words() ? own[i] * factor : 1.0f);
    }
    for (int64_t i = 0; i < count; ++i, codes += BLOCK_CODES / 2, values += BLOCK_CODES) {
      BlockSum dots[ROWS];
      blocks.template operator()<ROWS>(codes, values, weight.k, dots);
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        totals[row] = add_scaled(totals[row], dots[row], scales[row][i]);
      }
    }
  }
  for (int row = 0; row < ROWS; ++row) sums[row * TILE_COLUMNS] += total(totals[row]);
}

// sums[i][c] += <x[i], W[column + c]> for the columns of a strip, in blocks of codes.
template <int ROWS>
inline void add_block_dots_of_strip(const WeightView& weight, const FewRows& x, int64_t column,
                                    float* sums) {
  if constexpr (ROWS > 1) {
    if (x.num_rows < ROWS) {
      return add_block_dots_of_strip<ROWS - 1>(weight, x, column, sums);
    }
  }
  const int64_t count = std::min(TILE_COLUMNS, weight.n - column);
  const auto each = [&](const auto& blocks, float factor) {
    for (int64_t c = 0; c < count; ++c) {
      add_block_dots<ROWS>(weight, blocks, column + c, x, factor, sums + c);
    }
  };
  if (!x.has_words()) return each(FloatBlocks(weight.codebook->values), 1.0f);
  int16_t words[NUM_CODES];
  const float step = words_of_codebook(*weight.codebook, words);
  each(WordBlocks(words), step);
}

// The same, by whichever way takes this weight and these rows.
inline void add_few_rows(const WeightView& weight, const FewRows& x, int64_t column, float* sums) {
  if (takes_code_blocks(weight) && (!x.has_words() || x.all_exact())) {
    return add_block_dots_of_strip<FEW_ROWS>(weight, x, column, sums);
  }
  add_dots_of_strip<FEW_ROWS>(weight, x.num_rows, column, x.rows, sums);
}

template <class Left, class Right>
inline float dot(const Left* left, const Right* right, int64_t count) {
  Floats sums[4];
  std::fill(sums, sums + 4, zeros());
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = i + j * LANES;
      sums[j] = fused_multiply_add(load(left + at), load(right + at), sums[j]);
    }
  }
  for (; i + LANES <= count; i += LANES) {
    sums[0] = fused_multiply_add(load(left + i), load(right + i), sums[0]);
  }
  float sum = sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) sum += to_float(left[i]) * to_float(right[i]);
  return sum;
}

// h[row][r] = s <x[row], a[r]> for the ranks `range`, of rows from first_row on.
inline void few_rows_to_rank(const MatrixView& x, Range rows, const AdapterView& adapter,
                             Range range, float* h) {
  dispatch(x.type, [&](auto* x_tag) {
    dispatch(adapter.a.type, [&](auto* a_tag) {
      const auto* from = static_cast<const std::remove_pointer_t<decltype(x_tag)>*>(x.data);
      const auto* a = static_cast<const std::remove_pointer_t<decltype(a_tag)>*>(adapter.a.data);
      for (int64_t r = range.first; r < range.last; ++r) {
        for (int64_t row = rows.first; row < rows.last; ++row) {
          const float product = dot(from + row * x.stride, a + r * adapter.a.stride, x.columns);
          h[(row - rows.first) * adapter.rank + r] = adapter.scaling * product;
        }
      }
    });
  });
}

// sums[row][c] += <h[row], b[column + c]> for the columns of a strip.
inline void add_few_rows_of_rank(const AdapterView& adapter, int64_t num_rows, const float* h,
                                 int64_t column, float* sums) {
  const int64_t count = std::min(TILE_COLUMNS, adapter.b.rows - column), rank = adapter.rank;
  dispatch(adapter.b.type, [&](auto* tag) {
    const auto* b =
        static_cast<const std::remove_pointer_t<decltype(tag)>*>(adapter.b.data) + column * rank;
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t row = 0; row < num_rows; ++row) {
        sums[row * TILE_COLUMNS + c] += dot(h + row * rank, b + c * rank, rank);
      }
    }
  });
}
