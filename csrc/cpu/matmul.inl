// The one micro-kernel, and strips: TILE_COLUMNS output columns by all rows of a row block, summed
// in fp32 in L2 until they are complete, then rounded and stored once.

// sums[row][column] += left[d][row] * panel[d][column], the partial sums of one panel in registers;
// of a panel with few columns its first vectors. Never inlined: among the variables of a caller the
// compiler runs out of registers for the sums.
template <int HEIGHT, int VECTORS>
[[gnu::noinline]] void multiply_tile(const float* left, const float* panel, int64_t depth,
                                     float* sums) {
  Floats tile[HEIGHT][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) std::fill(tile[i], tile[i] + VECTORS, zeros());
#pragma GCC unroll 4
  for (int64_t d = 0; d < depth; ++d, left += HEIGHT, panel += TILE_COLUMNS) {
    Floats right[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) right[v] = load(panel + v * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < HEIGHT; ++i) {
      const Floats factor = broadcast(left[i]);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) {
        tile[i][v] = fused_multiply_add(factor, right[v], tile[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i, sums += TILE_COLUMNS) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
      store(sums + v * LANES, load(sums + v * LANES) + tile[i][v]);
    }
  }
}

// The tile of a height that the compiler does not know, or the one of pairs.
template <bool PAIRED, int VECTORS, int HEIGHT = TILE_ROWS>
inline void multiply(int64_t height, const float* left, const float* panel, int64_t depth,
                     float* sums) {
  if constexpr (HEIGHT > 1) {
    if (height < HEIGHT) {
      return multiply<PAIRED, VECTORS, HEIGHT - 1>(height, left, panel, depth, sums);
    }
  }
  if constexpr (PAIRED) {
    multiply_paired_tile<HEIGHT>(left, panel, depth, sums);
  } else {
    multiply_tile<HEIGHT, VECTORS>(left, panel, depth, sums);
  }
}

// What one thread sums a strip in, and the right panel that it meets.
struct Strip {
  float* panel;
  float* sums;  // [rows, TILE_COLUMNS]

  static int64_t size(int64_t rows) { return (DEPTH + rows) * TILE_COLUMNS; }
  explicit Strip(float* memory) : panel(memory), sums(memory + DEPTH * TILE_COLUMNS) {}
};

// sums[row - rows.first] = the same start for every row: a bias, or zero.
inline void begin_strip(const Strip& strip, int64_t num_rows, const float* start) {
  const Floats starts[] = {load(start), load(start + LANES)};
  float* sums = strip.sums;
  for (int64_t row = 0; row < num_rows; ++row, sums += TILE_COLUMNS) {
    store(sums, starts[0], starts[1]);
  }
}

// Adds left [rows, depth] times right [depth, column ... column + TILE_COLUMNS) to the strip;
// `rows` are those of `left`, from a multiple of TILE_ROWS on. Columns beyond VECTORS are left out.
// Each tile's rows of the strip, the first of which is row 0, are finished while they are in L1.
template <int VECTORS = 2, class Right, class Finish>
inline void add_product(const Strip& strip, const LeftTiles& left, Range rows, const Right& right,
                        int64_t column, const Finish& finish) {
  const int64_t step = panel_depth(left.depth);
  if (left.depth == 0) finish(Range{0, rows.size()});
  for (int64_t first = 0; first < left.depth; first += step) {
    const int64_t depth = std::min(step, left.depth - first);
    right.pack(first, depth, column, strip.panel);
    if (left.paired) pair_rows(strip.panel, depth);
    for (int64_t row = rows.first; row < rows.last; row += TILE_ROWS) {
      const int64_t tile = row / TILE_ROWS, height = left.height(tile), at = row - rows.first;
      const float* cells = left.tile(tile, first);
      float* sums = strip.sums + at * TILE_COLUMNS;
      if (left.paired) {
        multiply<true, 2>(height, cells, strip.panel, left.cells(depth), sums);
      } else {
        multiply<false, VECTORS>(height, cells, strip.panel, depth, sums);
      }
      if (first + depth == left.depth) finish(Range{at, at + height});
    }
  }
}

// The same where more is added.
template <class Right>
inline void add_product(const Strip& strip, const LeftTiles& left, Range rows, const Right& right,
                        int64_t column) {
  add_product(strip, left, rows, right, column, [](Range) {});
}

// out[first_row + i][column + c] = sums[i][c] for rows i of the strip
inline void store_strip(const Strip& strip, Range rows, int64_t column, int64_t first_row,
                        const OutputView& out) {
  const int64_t count = std::min(TILE_COLUMNS, out.columns - column);
  dispatch(out.type, [&](auto* tag) {
    auto* target = static_cast<decltype(tag)>(out.data) + column;
    for (int64_t row = rows.first; row < rows.last; ++row) {
      convert(target + (first_row + row) * out.columns, strip.sums + row * TILE_COLUMNS, count);
    }
  });
}
