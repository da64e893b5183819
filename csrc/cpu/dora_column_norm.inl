// norm[n] = |W_n + s b_n a|
//
// Each thread takes TILE_COLUMNS rows of W at a time and decodes them side by side into a panel in
// L1. A few entries of W + s b a at a time are summed in registers and squared there, so that the
// sum exists nowhere else. Nothing cancels that would not in the dense sum, so fp32 serves, but for
// the sums of squares: over a few of them in fp32, over the tiles in double.

// A strip of the norm: TILE_COLUMNS rows of W, which are the columns of every panel.
struct NormStrip {
  float *weight, *b;  // panels [DEPTH] and [rank]
  float scaling;
  double squares[TILE_COLUMNS];

  static int64_t size(int64_t rank) { return (DEPTH + rank) * TILE_COLUMNS; }
};

// squares[c] += sum over i of (weight[i][c] + s <a[.][i], b[.][c]>)^2 for the HEIGHT rows of a tile
// of a^T. Never inlined, like multiply_tile.
template <int HEIGHT>
[[gnu::noinline]] void add_squares(const LeftTiles& a, int64_t index, const float* weight,
                                   NormStrip& strip) {
  Floats tile[HEIGHT][2];
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) tile[i][0] = tile[i][1] = zeros();
  const float* right = strip.b;
  const int64_t step = panel_depth(a.depth);
  for (int64_t first = 0; first < a.depth; first += step) {
    const float* left = a.tile(index, first);
    const int64_t depth = std::min(step, a.depth - first);
    const float* again = unknown(left);
#pragma GCC unroll 4
    for (int64_t r = 0; r < depth; ++r, left += HEIGHT, again += HEIGHT, right += TILE_COLUMNS) {
      add_depth(left, again, {load(right), load(right + LANES)}, tile);
    }
  }
  const Floats scaling = broadcast(strip.scaling);
  Floats sums[2] = {zeros(), zeros()};
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, weight += LANES) {
      const Floats entry = fused_multiply_add(scaling, tile[i][half], load(weight));
      sums[half] = fused_multiply_add(entry, entry, sums[half]);
    }
  }
  float squares[TILE_COLUMNS];
  store(squares, sums[0]);
  store(squares + LANES, sums[1]);
  for (int64_t c = 0; c < TILE_COLUMNS; ++c) strip.squares[c] += static_cast<double>(squares[c]);
}

template <int HEIGHT = TILE_ROWS>
inline void add_squares_of_tile(const LeftTiles& a, int64_t index, const float* weight,
                                NormStrip& strip) {
  if constexpr (HEIGHT > 1) {
    if (a.height(index) < HEIGHT) return add_squares_of_tile<HEIGHT - 1>(a, index, weight, strip);
  }
  add_squares<HEIGHT>(a, index, weight, strip);
}

// norm[column ... column + TILE_COLUMNS), from the tiles of a^T.
inline void norm_of_strip(const NormTask& task, const LeftTiles& a, int64_t column,
                          NormStrip& strip) {
  static_assert(DEPTH % TILE_ROWS == 0, "a tile meets one panel");
  const TransposedDensePanels b{{task.adapter.b}};
  for (int64_t first = 0; first < a.depth; first += DEPTH) {
    b.pack(first, std::min(DEPTH, a.depth - first), column, strip.b + first * TILE_COLUMNS);
  }
  std::fill(strip.squares, strip.squares + TILE_COLUMNS, 0.0);
  for (int64_t first = 0; first < a.rows; first += DEPTH) {
    const int64_t depth = std::min(DEPTH, a.rows - first);
    TransposedWeightPanels{task.weight}.pack(first, depth, column, strip.weight);
    for (int64_t row = 0; row < depth; row += TILE_ROWS) {
      const float* weight = strip.weight + row * TILE_COLUMNS;
      add_squares_of_tile(a, (first + row) / TILE_ROWS, weight, strip);
    }
  }
  const int64_t count = std::min(TILE_COLUMNS, task.weight.n - column);
  for (int64_t c = 0; c < count; ++c) {
    task.norm[column + c] = static_cast<float>(std::sqrt(strip.squares[c]));
  }
}

inline void dora_column_norm(const NormTask& task, int num_threads) {
  const int64_t n = task.weight.n, k = task.weight.k, rank = task.adapter.rank;
  const int threads = threads_for_product(rank, n, k, num_threads);
  const int64_t a_size = Workspace::padded(rank * k);
  const int64_t strip_size = Workspace::padded(NormStrip::size(rank));
  Workspace workspace(2 * a_size + threads * strip_size);
  float *a = workspace.take(a_size), *a_tiles = workspace.take(a_size);
  float* strips = workspace.take(threads * strip_size);
  parallel(threads, [&](const Team& team) {
    float* own = strips + team.thread * strip_size;
    NormStrip strip{own, own + DEPTH * TILE_COLUMNS, task.adapter.scaling, {}};
    const LeftTiles tiles{a_tiles, k, rank};
    const Range ranks = team.share_of(rank, 1), columns = team.share_of(n, TILE_COLUMNS);
    for (int64_t i = ranks.first; i < ranks.last; ++i) {
      DenseRows{task.adapter.a}.read(i, 0, k, a + i * k);
    }
    pack_left_transposed(a, ranks, tiles);
    team.wait();
    for (int64_t column = columns.first; column < columns.last; column += TILE_COLUMNS) {
      norm_of_strip(task, tiles, column, strip);
    }
  });
}
