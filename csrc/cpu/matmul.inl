// The one micro-kernel, and strips: some output columns by all rows of a row block, summed in fp32
// in L2 until they are complete, then rounded and stored once.

// tile[i][v] += left[i] * right[v] for one depth. A factor that a product reads by itself costs no
// instruction, and instructions are what a core shares with a neighbour on its other thread; but
// both vectors then load it, so that of three factors IN_PLACE are read so. `again` is `left`,
// which the compiler must not know: it would read each once for both.
template <int HEIGHT, int VECTORS>
[[gnu::always_inline]] inline void add_depth(const float* left, const float* again,
                                             const Floats (&right)[VECTORS],
                                             Floats (&tile)[HEIGHT][VECTORS]) {
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) {
      const Floats factor = broadcast(v > 0 && i % 3 < IN_PLACE ? again[i] : left[i]);
      tile[i][v] = fused_multiply_add(factor, right[v], tile[i][v]);
    }
  }
}

// sums[row][column] += left[d][row] * panel[d][column], the partial sums of one panel in registers;
// of a panel with few columns its first vectors. Never inlined: among the variables of a caller the
// compiler runs out of registers for the sums.
template <int HEIGHT, int VECTORS>
[[gnu::noinline]] void multiply_tile(const float* left, const float* panel, int64_t depth,
                                     float* sums) {
  Floats tile[HEIGHT][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) {
    std::fill(tile[i], tile[i] + VECTORS, zeros());
    if constexpr (LEFT_AHEAD > 0) {
      for (int v = 0; v < VECTORS; ++v) __builtin_prefetch(sums + i * TILE_COLUMNS + v * LANES, 1);
    }
  }
  const float* again = unknown(left);
#pragma GCC unroll 4
  for (int64_t d = 0; d < depth; ++d, left += HEIGHT, again += HEIGHT, panel += TILE_COLUMNS) {
    if constexpr (LEFT_AHEAD > 0) __builtin_prefetch(left + LEFT_AHEAD);
    Floats right[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) right[v] = load(panel + v * LANES);
    add_depth(left, again, right, tile);
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

// Panels of a strip are side by side: tiles that have met the first are still in L2 for the others,
// and so is the rest of each line of codes, of a row of W, that the first took its part of.
constexpr int64_t STRIP_COLUMNS = 4 * TILE_COLUMNS;

// What one thread sums: columns of an output by some rows, and the right panel that they meet.
struct Strip {
  float* panel;
  float* sums;  // of each panel: [num_rows, TILE_COLUMNS]
  int64_t num_rows;
  Range columns;

  static int64_t size(int64_t rows, int64_t columns = STRIP_COLUMNS) {
    return DEPTH * TILE_COLUMNS + rows * columns;
  }
  Strip(float* memory, int64_t rows, Range range)
      : panel(memory), sums(memory + DEPTH * TILE_COLUMNS), num_rows(rows), columns(range) {}

  // Calls body(column, sums) for each panel.
  template <class Body>
  void for_panels(const Body& body) const {
    float* own = sums;
    for (int64_t column = columns.first; column < columns.last; column += TILE_COLUMNS) {
      body(column, own);
      own += num_rows * TILE_COLUMNS;
    }
  }
};

// Calls body(part) for as few parts of the columns as strips of so many can hold, which are even.
template <class Body>
inline void for_strips(Range columns, int64_t columns_each, const Body& body) {
  const int64_t count = (columns.size() + columns_each - 1) / columns_each;
  for (int64_t i = 0; i < count; ++i) {
    const Range part = part_of(columns.size(), TILE_COLUMNS, i, count);
    body(Range{columns.first + part.first, columns.first + part.last});
  }
}

// Some rows of one panel's columns: what is complete of a strip.
struct StripPart {
  int64_t column;
  Range rows;
  float* sums;  // of the first row

  float* row(int64_t index) const { return sums + (index - rows.first) * TILE_COLUMNS; }
};

// Every row of a strip starts with `start`: a bias for each column, or zero.
inline void begin_strip(const Strip& strip, const float* start = nullptr) {
  strip.for_panels([&](int64_t column, float* sums) {
    Floats starts[2] = {zeros(), zeros()};
    if (start != nullptr) {
      starts[0] = load(start + column - strip.columns.first);
      starts[1] = load(start + column - strip.columns.first + LANES);
    }
    for (int64_t row = 0; row < strip.num_rows; ++row, sums += TILE_COLUMNS) {
      store(sums, starts[0], starts[1]);
    }
  });
}

// Adds left [rows, depth] times right [depth, columns of the strip] to the strip, whose rows are
// those of `left` from first_row on, a multiple of TILE_ROWS. Columns beyond VECTORS are left out.
// finish(part) is called with each tile's rows of a panel while they are in L1.
template <int VECTORS = 2, class Right, class Finish>
inline void add_product(const Strip& strip, const LeftTiles& left, int64_t first_row,
                        const Right& right, const Finish& finish) {
  const int64_t step = panel_depth(left.depth);
  if (left.depth == 0) {
    strip.for_panels(
        [&](int64_t column, float* sums) { finish(StripPart{column, {0, strip.num_rows}, sums}); });
  }
  for (int64_t first = 0; first < left.depth; first += step) {
    const int64_t depth = std::min(step, left.depth - first);
    strip.for_panels([&](int64_t column, float* sums) {
      right.pack(first, depth, column, strip.panel);
      if (left.paired) pair_rows(strip.panel, depth);
      for (int64_t row = 0; row < strip.num_rows; row += TILE_ROWS) {
        const int64_t tile = (first_row + row) / TILE_ROWS, height = left.height(tile);
        const float* cells = left.tile(tile, first);
        if (left.paired) {
          multiply<true, 2>(height, cells, strip.panel, left.cells(depth), sums);
        } else {
          multiply<false, VECTORS>(height, cells, strip.panel, depth, sums);
        }
        if (first + depth == left.depth) finish(StripPart{column, {row, row + height}, sums});
        sums += height * TILE_COLUMNS;
      }
    });
  }
}

// The same where more is added.
template <class Right>
inline void add_product(const Strip& strip, const LeftTiles& left, const Right& right) {
  add_product(strip, left, 0, right, [](const StripPart&) {});
}

// out[first_row + i] = rows i of the part
inline void store_part(const StripPart& part, int64_t first_row, const OutputView& out) {
  const int64_t count = std::min(TILE_COLUMNS, out.columns - part.column);
  dispatch(out.type, [&](auto* tag) {
    auto* target = static_cast<decltype(tag)>(out.data) + part.column;
    for (int64_t row = part.rows.first; row < part.rows.last; ++row) {
      convert(target + (first_row + row) * out.columns, part.row(row), count);
    }
  });
}
