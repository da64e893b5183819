// dx = dy W for a few rows of dy. Rows of W are read as they lie, and each code is decoded once, in
// registers, for all rows of dy; sums lie in the places of FloatBlocks until they are complete. Of
// more rows than one tile has, or eight, packed panels of W are as fast.

constexpr int MOST_SPREAD = 6;
static_assert(MOST_SPREAD <= TILE_ROWS);

// What sums and partial sums may each have of L1.
constexpr int64_t SPREAD_IN_L1 = 16 << 10;
// How many rows of W ahead codes are asked for.
constexpr int64_t ROWS_AHEAD = 8;
// The columns whose blocks are multiplied together.
constexpr int64_t SPREAD_COLUMNS = BLOCKS_TOGETHER * BLOCK_CODES;

inline bool spreads_few_rows(const WeightView& weight, int64_t num_rows) {
  return num_rows > 0 && num_rows <= MOST_SPREAD && takes_code_blocks(weight);
}

// Sums of some columns of dx: [SPREAD_COLUMNS of them, row, place].
struct SpreadSums {
  float *totals, *partial;
  int64_t num_rows;
  Range columns;

  // The most columns that are summed at once, and the floats of both sums of them.
  static int64_t most_columns(int64_t num_rows) {
    constexpr int64_t FLOATS = SPREAD_IN_L1 / sizeof(float);
    return std::max(FLOATS / num_rows / SPREAD_COLUMNS, int64_t{1}) * SPREAD_COLUMNS;
  }
  static int64_t size(int64_t num_rows) { return 2 * num_rows * most_columns(num_rows); }

  SpreadSums(float* memory, int64_t rows, Range range)
      : totals(memory),
        partial(memory + rows * most_columns(rows)),
        num_rows(rows),
        columns(range) {
    std::fill_n(totals, size(), 0.0f);
  }

  // Of either sum.
  int64_t size() const {
    return (columns.size() + SPREAD_COLUMNS - 1) / SPREAD_COLUMNS * SPREAD_COLUMNS * num_rows;
  }

  void add_partial() const {
    for (int64_t i = 0; i < size(); i += LANES) {
      store(totals + i, load(totals + i) + load(partial + i));
    }
  }

  // strip += the totals of its columns.
  void add_to(const Strip& strip) const {
    strip.for_panels([&](int64_t column, float* sums) {
      const int64_t first = column - columns.first, part = first / SPREAD_COLUMNS;
      for (int64_t row = 0; row < num_rows; ++row, sums += TILE_COLUMNS) {
        const float* const own = totals + (part * num_rows + row) * SPREAD_COLUMNS;
        const int64_t count = std::min(TILE_COLUMNS, columns.last - column);
        for (int64_t c = 0; c < count; ++c) {
          const int64_t within = (first + c) % SPREAD_COLUMNS;
          sums[c] += own[FloatBlocks::place(within / BLOCK_CODES, within % BLOCK_CODES)];
        }
      }
    });
  }
};

// partial += the products of COUNT rows of W, from row `n` on, with `factors` [COUNT, ROWS].
template <int COUNT, int ROWS>
inline void spread_rows(const WeightView& weight, const FloatBlocks& blocks, int64_t n,
                        const float* factors, Range columns, float* partial) {
  constexpr int64_t STRIDE = SPREAD_IN_L1 / sizeof(float) / BLOCK_CODES + LANES;
  const BlockScales block_scales(weight);
  const int64_t count = columns.size() / BLOCK_CODES;
  alignas(64) float scales[COUNT][STRIDE], found[STRIDE] = {};
  for (int64_t i = 0; i < COUNT; ++i) {
    const int64_t block = ((n + i) * weight.k + columns.first) / BLOCK_CODES;
    block_scales.look_up(block, count, found);
    block_scales.for_vectors(block, count, [&](int64_t j, Floats scale, Floats offset) {
      store(scales[i] + j, load(found + j) * scale + offset);
    });
    scales[i][count] = 0.0f;  // of nothing beside the last block
  }
  const int64_t stride = weight.k / 2;
  const uint8_t* codes = weight.codes + n * stride + columns.first / 2;
  WeightedBlocks here{codes, scales[0], stride, STRIDE, factors};
  int64_t i = 0;
  for (; i + BLOCKS_TOGETHER <= count; i += BLOCKS_TOGETHER) {
    for (int64_t j = 0; j < COUNT; ++j) {
      __builtin_prefetch(here.codes + (ROWS_AHEAD + j) * stride);
    }
    blocks.template spread<true, COUNT, ROWS>(here, partial);
    here.codes += SPREAD_COLUMNS / 2;
    here.scales += BLOCKS_TOGETHER;
    partial += ROWS * SPREAD_COLUMNS;
  }
  if (i < count) blocks.template spread<false, COUNT, ROWS>(here, partial);
}

// The same for all rows of W in `depths`.
template <int ROWS>
[[gnu::noinline]] void spread_depths(const WeightView& weight, const FloatBlocks& blocks,
                                     Range depths, const float* factors, Range columns,
                                     float* partial) {
  int64_t n = depths.first;
  for (; n + ROWS_SPREAD <= depths.last; n += ROWS_SPREAD, factors += ROWS_SPREAD * ROWS) {
    spread_rows<ROWS_SPREAD, ROWS>(weight, blocks, n, factors, columns, partial);
  }
  for (; n < depths.last; ++n, factors += ROWS) {
    spread_rows<1, ROWS>(weight, blocks, n, factors, columns, partial);
  }
}

template <int ROWS = MOST_SPREAD, class... Arguments>
inline void spread_depths_of(int64_t num_rows, const Arguments&... arguments) {
  if constexpr (ROWS > 1) {
    if (num_rows < ROWS) return spread_depths_of<ROWS - 1>(num_rows, arguments...);
  }
  spread_depths<ROWS>(arguments...);
}

// sums += dy W. Panels of depths are summed by themselves, as where W is packed: that rounds less.
inline void add_spread_rows(const WeightView& weight, const LeftTiles& dy, const SpreadSums& sums) {
  const FloatBlocks blocks(weight.codebook->values);
  const int64_t step = panel_depth(dy.depth);
  for (int64_t first = 0; first < dy.depth; first += step) {
    const Range depths{first, std::min(first + step, dy.depth)};
    std::fill_n(sums.partial, sums.size(), 0.0f);
    spread_depths_of(dy.rows, weight, blocks, depths, dy.tile(0, first), sums.columns,
                     sums.partial);
    sums.add_partial();
  }
}
