// The one micro-kernel, and strips: TILE_COLUMNS output columns by all rows of a row block, summed
// in fp32 in L2 until they are complete, then rounded and stored once.

// sums[row][column] += left[d][row] * panel[d][column], the partial sums of one panel in registers.
// Never inlined: among the variables of a caller the compiler runs out of registers for the sums.
template <int HEIGHT>
[[gnu::noinline]] void multiply_tile(const float* left, const float* panel, int64_t depth,
                                     float* sums) {
  Floats tile[HEIGHT][2];
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) tile[i][0] = tile[i][1] = zeros();
#pragma GCC unroll 4
  for (int64_t d = 0; d < depth; ++d, left += HEIGHT, panel += TILE_COLUMNS) {
    const Floats right0 = load(panel), right1 = load(panel + LANES);
#pragma GCC unroll 16
    for (int i = 0; i < HEIGHT; ++i) {
      const Floats factor = broadcast(left[i]);
      tile[i][0] = fused_multiply_add(factor, right0, tile[i][0]);
      tile[i][1] = fused_multiply_add(factor, right1, tile[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i, sums += TILE_COLUMNS) {
    store(sums, load(sums) + tile[i][0]);
    store(sums + LANES, load(sums + LANES) + tile[i][1]);
  }
}

// The tile of a height that the compiler does not know, or the one of pairs.
template <bool PAIRED, int HEIGHT = TILE_ROWS>
inline void multiply(int64_t height, const float* left, const float* panel, int64_t depth,
                     float* sums) {
  if constexpr (HEIGHT > 1) {
    if (height < HEIGHT) return multiply<PAIRED, HEIGHT - 1>(height, left, panel, depth, sums);
  }
  if constexpr (PAIRED) {
    multiply_paired_tile<HEIGHT>(left, panel, depth, sums);
  } else {
    multiply_tile<HEIGHT>(left, panel, depth, sums);
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
  for (int64_t row = 0; row < num_rows; ++row) {
    std::copy(start, start + TILE_COLUMNS, strip.sums + row * TILE_COLUMNS);
  }
}

// Adds left [rows, depth] times right [depth, column ... column + TILE_COLUMNS) to the strip;
// `rows` are those of `left`, from a multiple of TILE_ROWS on.
template <class Right>
inline void add_product(const Strip& strip, const LeftTiles& left, Range rows, const Right& right,
                        int64_t column) {
  const int64_t step = panel_depth(left.depth);
  for (int64_t first = 0; first < left.depth; first += step) {
    const int64_t depth = std::min(step, left.depth - first);
    right.pack(first, depth, column, strip.panel);
    if (left.paired) pair_rows(strip.panel, depth);
    float* sums = strip.sums;
    for (int64_t row = rows.first; row < rows.last; row += TILE_ROWS) {
      const int64_t tile = row / TILE_ROWS, height = left.height(tile);
      const float* cells = left.tile(tile, first);
      if (left.paired) {
        multiply<true>(height, cells, strip.panel, left.cells(depth), sums);
      } else {
        multiply<false>(height, cells, strip.panel, depth, sums);
      }
      sums += height * TILE_COLUMNS;
    }
  }
}

// out[first_row + i][column + c] = sums[i][c]
inline void store_strip(const Strip& strip, int64_t num_rows, int64_t column, int64_t first_row,
                        const OutputView& out) {
  const int64_t count = std::min(TILE_COLUMNS, out.columns - column);
  dispatch(out.type, [&](auto* tag) {
    auto* target = static_cast<decltype(tag)>(out.data) + first_row * out.columns + column;
    for (int64_t row = 0; row < num_rows; ++row, target += out.columns) {
      convert(target, strip.sums + row * TILE_COLUMNS, count);
    }
  });
}
