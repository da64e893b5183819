// The operands of a matmul as the micro-kernel reads them. A product left [rows, depth] times
// right [depth, columns] is computed from
//   left tiles:   TILE_ROWS rows, depth-major:     tile[d][row]
//   right panels: TILE_COLUMNS columns, DEPTH deep: panel[d][column]
// The weight and A, B, x, dy serve as `right` in two directions: as they lie, or transposed.
//
// TILE_ROWS is what the registers hold, with two vectors of sums per row; a panel of DEPTH and the
// tile that it meets share L1. The tiles that meet one panel lie side by side, so that what fetches
// ahead does not begin anew at each of them. LEFT_AHEAD, or 0, is how many floats before a tile
// meets the panel it is asked for: what fetches ahead by itself ends with a page.

constexpr int64_t TILE_COLUMNS = 2 * LANES;

// Depths are cut into equal panels rather than full ones and a small rest; words of codes stay
// whole.
inline int64_t panel_depth(int64_t depth) {
  const int64_t num_panels = std::max<int64_t>((depth + DEPTH - 1) / DEPTH, 1);
  return ((depth + num_panels - 1) / num_panels + 7) / 8 * 8;
}

// Whether values are multiplied as pairs of bf16: where that is a fast instruction.
inline bool are_paired(ElementType type) {
  return type == ElementType::bfloat16 && multiplies_pairs();
}

// Tiles of every row for one panel, then for the next, without gaps; the last tile has the rows
// that are left. Where they are paired, a cell tile[d][row] is two bf16 values, of depths 2 d and 2
// d + 1; then the right panel is, too.
struct LeftTiles {
  float* data;
  int64_t rows, depth;
  bool paired = false;

  static int64_t size(int64_t rows, int64_t depth) { return rows * depth; }
  int64_t height(int64_t tile) const { return std::min(TILE_ROWS, rows - tile * TILE_ROWS); }
  int64_t cells(int64_t depths) const { return paired ? (depths + 1) / 2 : depths; }
  // The part that meets the panel which begins at depth `first`.
  float* tile(int64_t index, int64_t first) const {
    const int64_t panel = std::min(panel_depth(depth), depth - first);
    return data + cells(first) * rows + index * TILE_ROWS * cells(panel);
  }
  // What one row has at a depth, where nothing is paired.
  float& at(int64_t row, int64_t d) const {
    const int64_t index = row / TILE_ROWS, step = panel_depth(depth), first = d / step * step;
    return tile(index, first)[(d - first) * height(index) + row % TILE_ROWS];
  }
};

// Rows [first_row, ...) of a matrix, with dropout where asked for: element index = flat index; and
// with a factor for each column.
struct DenseRows {
  MatrixView matrix;
  int64_t first_row = 0;
  const Dropout* dropout = nullptr;
  const float* scale = nullptr;

  bool is_plain() const { return dropout == nullptr && scale == nullptr; }

  // target[0, count) = elements [column, column + count) of the row, in fp32.
  void read(int64_t row, int64_t column, int64_t count, float* target) const {
    row += first_row;
    dispatch(matrix.type, [&](auto* tag) {
      const auto* data = static_cast<decltype(tag)>(const_cast<void*>(matrix.data));
      convert(target, data + row * matrix.stride + column, count);
    });
    if (scale != nullptr) {
      for (int64_t i = 0; i < count; ++i) target[i] *= scale[column + i];
    }
    if (dropout == nullptr) return;
    float factors[DEPTH];
    const int64_t index = row * matrix.columns + column;
    dropout_factors(*dropout, index, count, factors);
    for (int64_t i = 0; i < count; ++i) target[i] *= factors[i];
  }
};

// tile[d][i] = source[i * row_stride + d * depth_stride], for a height that the compiler knows.
template <int HEIGHT = TILE_ROWS>
inline void pack_tile(int64_t height, const float* source, int64_t row_stride, int64_t depth_stride,
                      Range depths, float* tile) {
  if constexpr (HEIGHT > 1) {
    if (height < HEIGHT) {
      return pack_tile<HEIGHT - 1>(height, source, row_stride, depth_stride, depths, tile);
    }
  }
  for (int64_t d = depths.first; d < depths.last; ++d) {
#pragma GCC unroll 16
    for (int i = 0; i < HEIGHT; ++i) {
      tile[d * HEIGHT + i] = source[i * row_stride + d * depth_stride];
    }
  }
}

// The bits of two bf16 values, the first in the low half.
inline float pair_of(float first, float second) {
  const uint32_t low = from_float<BFloat16>(first).bits, high = from_float<BFloat16>(second).bits;
  return float_of(high << 16 | low);
}

// The same for every two of at most DEPTH values, in place.
inline void pair_row(float* row, int64_t depth) {
  BFloat16 rounded[DEPTH];
  if (depth % 2 != 0) row[depth] = 0.0f;
  const int64_t even = (depth + 1) / 2 * 2;
  convert(rounded, row, even);
  std::memcpy(row, rounded, static_cast<size_t>(even) * sizeof *rounded);
}

// The rows of a tile from `row` on, from where they lie; false where they must be read first.
inline bool pack_in_place(const DenseRows& source, int64_t row, Range depths, bool paired,
                          float* tile) {
  const MatrixView& matrix = source.matrix;
  if (!source.is_plain() || (paired && matrix.type != ElementType::bfloat16)) return false;
  bool is_packed = false;
  dispatch(matrix.type, [&](auto* tag) {
    const auto* data = static_cast<decltype(tag)>(const_cast<void*>(matrix.data));
    const auto* rows = data + (source.first_row + row) * matrix.stride + depths.first;
    is_packed = pack_whole_tile(rows, matrix.stride, depths.size(), paired, tile);
  });
  return is_packed;
}

// Packs the tiles of rows `range` (relative to source.first_row), a multiple of TILE_ROWS on.
inline void pack_left(const DenseRows& source, Range range, const LeftTiles& left) {
  alignas(64) float rows[TILE_ROWS][DEPTH];
  const int64_t step = panel_depth(left.depth);
  for (int64_t row = range.first; row < range.last; row += TILE_ROWS) {
    const int64_t height = left.height(row / TILE_ROWS);
    for (int64_t first = 0; first < left.depth; first += step) {
      const int64_t depth = std::min(step, left.depth - first), cells = left.cells(depth);
      float* tile = left.tile(row / TILE_ROWS, first);
      const bool is_whole = height == TILE_ROWS;
      if (is_whole && pack_in_place(source, row, {first, first + depth}, left.paired, tile)) {
        continue;
      }
      for (int64_t i = 0; i < height; ++i) {
        source.read(row + i, first, depth, rows[i]);
        if (left.paired) pair_row(rows[i], depth);
      }
      if (is_whole && pack_whole_tile(rows[0], DEPTH, cells, false, tile)) continue;
      pack_tile(height, rows[0], DEPTH, 1, {0, cells}, tile);
    }
  }
}

// tile[d][i] = the pair of source[2 d][i] and source[2 d + 1][i], or 0 beyond the last row.
inline void pack_paired_tile(const float* source, int64_t height, Range depths,
                             const LeftTiles& left, float* tile) {
  for (int64_t d = depths.first; d < depths.last; d += 2) {
    const float* row = source + d * left.rows;
    for (int64_t i = 0; i < height; ++i) {
      const float second = d + 1 < depths.last ? row[left.rows + i] : 0.0f;
      tile[d / 2 * height + i] = pair_of(row[i], second);
    }
  }
}

// Packs the transpose of a row-major fp32 matrix [left.depth, left.rows]: its rows `range`, from an
// even one on.
inline void pack_left_transposed(const float* source, Range range, const LeftTiles& left) {
  const int64_t step = panel_depth(left.depth);
  for (int64_t first = 0; first < left.depth; first += step) {
    const Range depths{std::max(range.first - first, int64_t{0}),
                       std::min({range.last - first, step, left.depth - first})};
    for (int64_t row = 0; row < left.rows; row += TILE_ROWS) {
      const int64_t height = left.height(row / TILE_ROWS);
      const float* panel = source + first * left.rows + row;
      float* tile = left.tile(row / TILE_ROWS, first);
      if (left.paired) {
        pack_paired_tile(panel, height, depths, left, tile);
      } else {
        pack_tile(height, panel, 1, left.rows, depths, tile);
      }
    }
  }
}

// panel[d][c] = matrix[first + d][column + c]
struct DensePanels {
  DenseRows source;

  void pack(int64_t first, int64_t depth, int64_t column, float* panel) const {
    const int64_t count = std::min(TILE_COLUMNS, source.matrix.columns - column);
    if (count == TILE_COLUMNS && source.is_plain()) {
      return dispatch(source.matrix.type,
                      [&](auto* tag) { copy_rows(tag, first, depth, column, panel); });
    }
    std::fill(panel, panel + depth * TILE_COLUMNS, 0.0f);
    for (int64_t d = 0; d < depth; ++d) {
      source.read(first + d, column, count, panel + d * TILE_COLUMNS);
    }
  }

 private:
  template <class Element>
  void copy_rows(Element*, int64_t first, int64_t depth, int64_t column, float* panel) const {
    const MatrixView& matrix = source.matrix;
    const Element* row = static_cast<const Element*>(matrix.data) +
                         (source.first_row + first) * matrix.stride + column;
    for (int64_t d = 0; d < depth; ++d, row += matrix.stride, panel += TILE_COLUMNS) {
      prefetch(row + depth * matrix.stride, TILE_COLUMNS * int64_t{sizeof *row});
      store(panel, load(row));
      store(panel + LANES, load(row + LANES));
    }
  }
};

// panel[d][c] = matrix[column + c][first + d]; columns beyond the matrix repeat its last row.
struct TransposedDensePanels {
  DenseRows source;

  void pack(int64_t first, int64_t depth, int64_t column, float* panel) const {
    for (int64_t c = 0; c < TILE_COLUMNS; c += LANES) {
      if (!pack_in_place(first, depth, column + c, panel + c)) {
        pack_as_floats(first, depth, column + c, panel + c);
      }
    }
  }

 private:
  static constexpr int64_t STEP = 16;  // bytes: four words

  int64_t row_of(int64_t column) const { return std::min(column, source.matrix.rows - 1); }

  // From where rows of floats or bf16 lie; false where they must be read first.
  bool pack_in_place(int64_t first, int64_t depth, int64_t column, float* panel) const {
    const MatrixView& matrix = source.matrix;
    const bool is_float = matrix.type == ElementType::float32;
    const int64_t num_bytes = is_float ? sizeof(float) : sizeof(BFloat16);
    if (!is_float && matrix.type != ElementType::bfloat16) return false;
    if (!source.is_plain() || depth * num_bytes % STEP != 0) return false;
    const uint8_t* rows[LANES];
    for (int i = 0; i < LANES; ++i) {
      const int64_t row = source.first_row + row_of(column + i);
      rows[i] =
          static_cast<const uint8_t*>(matrix.data) + (row * matrix.stride + first) * num_bytes;
    }
    if (is_float) {
      transpose(rows, depth, panel);
    } else {
      transpose_pairs(rows, depth, panel);
    }
    return true;
  }

  void pack_as_floats(int64_t first, int64_t depth, int64_t column, float* panel) const {
    alignas(64) float floats[LANES][DEPTH];
    const uint8_t* rows[LANES];
    for (int i = 0; i < LANES; ++i) {
      source.read(row_of(column + i), first, depth, floats[i]);
      std::fill(floats[i] + depth, floats[i] + (depth + 3) / 4 * 4, 0.0f);
      rows[i] = reinterpret_cast<const uint8_t*>(floats[i]);
    }
    transpose(rows, depth, panel);
  }

  // LANES rows side by side, read in whole steps.
  template <class Body>
  static void for_words(const uint8_t* const* rows, int64_t num_bytes, const Body& body) {
    Words words[4];
    for (int64_t offset = 0; offset < num_bytes; offset += STEP) {
      gather_words([&](int row) { return rows[row] + offset; }, words);
#pragma GCC unroll 4
      for (const Words word : words) body(word);
    }
  }
  static void transpose(const uint8_t* const* rows, int64_t depth, float* panel) {
    const float* const end = panel + depth * TILE_COLUMNS;
    for_words(rows, depth * int64_t{sizeof *panel}, [&](Words word) {
      if (panel < end) store(panel, reinterpret_cast<Floats>(word));
      panel += TILE_COLUMNS;
    });
  }
  static void transpose_pairs(const uint8_t* const* rows, int64_t depth, float* panel) {
    for_words(rows, depth * int64_t{sizeof(BFloat16)}, [&](Words pair) {
      store(panel, reinterpret_cast<Floats>(pair << 16));
      store(panel + TILE_COLUMNS, reinterpret_cast<Floats>(pair & 0xffff0000u));
      panel += 2 * TILE_COLUMNS;
    });
  }
};

// panel[d][c] = W[first + d][column + c]
struct WeightPanels {
  const WeightView& weight;

  void pack(int64_t first, int64_t depth, int64_t column, float* panel) const {
    const int64_t start = first * weight.k + column;
    if (weight.k % TILE_COLUMNS == 0) {
      return with_decoder(weight,
                          [&](const auto& decoder) { pack_whole(decoder, start, depth, panel); });
    }
    const int64_t count = std::min(TILE_COLUMNS, weight.k - column);
    if (count < TILE_COLUMNS) std::fill(panel, panel + depth * TILE_COLUMNS, 0.0f);
    for (int64_t d = 0; d < depth; ++d) {
      decode(weight, start + d * weight.k, count, panel + d * TILE_COLUMNS);
    }
  }

 private:
  // A panel's row is two vectors and lies in one block. Meanwhile the next panel's codes are asked
  // for: rows lie too far apart to be fetched ahead otherwise. By a view that is on the stack, for
  // the one given is read anew after each store.
  template <class Decoder>
  void pack_whole(const Decoder& decoder, int64_t index, int64_t depth, float* panel) const {
    const WeightView own = weight;
    const int64_t ahead = depth * own.k;
    for (int64_t d = 0; d < depth; ++d, index += own.k, panel += TILE_COLUMNS) {
      if (index + ahead < own.n * own.k) {
        prefetch<IN_L2>(codes_at<Decoder>(own, index + ahead), Decoder::VECTOR_BYTES);
      }
      const Floats scale = broadcast(own.scale_at(index));
      const uint8_t* codes = codes_at<Decoder>(own, index);
      store(panel, decoder(codes) * scale);
      store(panel + LANES, decoder(codes + Decoder::VECTOR_BYTES) * scale);
    }
  }
};

// panel[d][c] = W[column + c][first + d]; columns beyond the weight repeat its last row.
struct TransposedWeightPanels {
  const WeightView& weight;

  void pack(int64_t first, int64_t depth, int64_t column, float* panel) const {
    if (weight.k % 8 != 0) return pack_by_rows(first, depth, column, panel);
    for (int64_t c = 0; c < TILE_COLUMNS; c += LANES) {
      with_decoder(weight, [&](const auto& decoder) {
        pack_words(decoder, first, depth, column + c, panel + c);
      });
    }
  }

 private:
  // LANES rows side by side, a 32-bit word of codes from each: one word's shifts give one row of
  // the panel each, so that nothing needs transposing. Words do not straddle blocks where 8 divides
  // k.
  template <class Decoder>
  void pack_words(const Decoder& decoder, int64_t first, int64_t depth, int64_t column,
                  float* panel) const {
    int64_t starts[LANES];
    const uint8_t* sources[LANES];
    for (int i = 0; i < LANES; ++i) {
      starts[i] = std::min(column + i, weight.n - 1) * weight.k + first;
      sources[i] = codes_at<Decoder>(weight, starts[i]);
      const int64_t num_bytes = depth * Decoder::VECTOR_BYTES / LANES;
      prefetch<IN_L2>(sources[i] + num_bytes, num_bytes);
    }
    for (int64_t d = 0, run; d < depth; d += run) {
      run = depth - d;
      float scales[LANES];
      for (int i = 0; i < LANES; ++i) {
        run = run_in_block(weight, starts[i] + d, run);
        scales[i] = weight.scale_at(starts[i] + d);
      }
      const int64_t offset = d * Decoder::VECTOR_BYTES / LANES;
      expand(decoder, sources, offset, run, load(scales), panel + d * TILE_COLUMNS);
    }
  }

  static void expand(const NibbleDecoder& decoder, const uint8_t* const* sources, int64_t offset,
                     int64_t count, Floats scales, float* rows) {
    const auto expand_word = [&](Words codes) {
      for (uint32_t i = 0; i < 8; ++i, rows += TILE_COLUMNS) {
        store(rows, decoder.table[codes >> 4 * (i ^ 1)] * scales);  // The high nibble comes first.
      }
    };
    int64_t d = 0;
    for (; d + 32 <= count; d += 32) {
      Words words[4];
      gather_words([&](int row) { return sources[row] + offset + d / 2; }, words);
      for (const Words word : words) expand_word(word);
    }
    for (; d < count; d += 8) expand_word(gather_words(sources, offset + d / 2));
  }

  static void expand(const Int8Decoder&, const uint8_t* const* sources, int64_t offset,
                     int64_t count, Floats scales, float* rows) {
    for (int64_t d = 0; d < count; d += 4) {
      const Words words = gather_words(sources, offset + d);
      for (uint32_t i = 0; i < 4; ++i, rows += TILE_COLUMNS) {
        store(rows, low_bytes_as_int8(words >> 8 * i) * scales);
      }
    }
  }

  void pack_by_rows(int64_t first, int64_t depth, int64_t column, float* panel) const {
    float row[DEPTH];
    for (int64_t c = 0; c < TILE_COLUMNS; ++c) {
      decode(weight, std::min(column + c, weight.n - 1) * weight.k + first, depth, row);
      for (int64_t d = 0; d < depth; ++d) panel[d * TILE_COLUMNS + c] = row[d];
    }
  }
};
