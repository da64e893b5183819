// y = g (x W^T + h b^T) + bias,  h = s drop(x a^T) or s drop(x) a^T,  g = output_scale or 1
//
// for each of the layers that read x. Rows of x go in blocks. The threads share the rows of a
// block, pack them once and compute every h; then they take columns of each y, and each decodes the
// rows of W that belong to its columns: every code is decoded once per row block, into L1.

// Rows of a block: fewer of deep ones, whose tiles would not stay in the last-level cache.
inline int64_t rows_per_block(int64_t m, int64_t depth) {
  constexpr int64_t TILES = 1 << 21;  // floats
  return std::min(m, std::clamp<int64_t>(TILES / std::max<int64_t>(depth, 1), 384, 768));
}

inline int64_t num_row_blocks(int64_t m, int64_t rows_each) {
  return m == 0 ? 0 : (m + rows_each - 1) / rows_each;
}

// A row block, its number, the rows of it that one thread packs and projects, the memory of its
// strips, and whether it multiplies pairs.
struct RowBlock {
  int64_t index, first_row, num_rows;
  Range own_rows;
  float* strips;
  bool paired;

  DenseRows of(const MatrixView& matrix, const Dropout* dropout = nullptr) const {
    return {matrix, first_row, dropout};
  }
  Strip strip(Range columns) const { return {strips, num_rows, columns}; }
  LeftTiles tiles(float* data, int64_t depth) const { return {data, num_rows, depth, paired}; }
  LeftTiles transposed(float* data, int64_t rows) const { return {data, rows, num_rows, paired}; }
};

// Calls body(block) for each block of rows_each of the rows of x or dy, as one thread of a team
// sees it. Products of bf16 are paired where that is an instruction; as in plain torch, all factors
// are bf16 then, and the sums fp32.
template <class Body>
inline void for_row_blocks(const MatrixView& matrix, int64_t rows_each, float* strips,
                           const Team& team, const Body& body) {
  const bool paired = are_paired(matrix.type);
  for (int64_t first = 0; first < matrix.rows; first += rows_each) {
    const int64_t num_rows = std::min(rows_each, matrix.rows - first);
    body(RowBlock{first / rows_each, first, num_rows, team.share_of(num_rows, TILE_ROWS), strips,
                  paired});
  }
}

// fp32 scratch that holds a row-major matrix of the row block.
inline DenseRows as_rows(const float* data, int64_t rows, int64_t columns) {
  return {{data, ElementType::float32, rows, columns, columns}};
}

// Multiplies this thread's rows of h or dh by scaling, and by the mask if it falls on the rank.
inline void scale_and_drop(const RowBlock& block, const AdapterView& adapter, float* projected) {
  const int64_t last = block.own_rows.last * adapter.rank;
  for (int64_t i = block.own_rows.first * adapter.rank, count; i < last; i += count) {
    count = std::min(DEPTH, last - i);
    float factors[DEPTH];
    std::fill(factors, factors + count, 1.0f);
    if (adapter.dropout_on == DropoutOn::rank) {
      dropout_factors(adapter.dropout, block.first_row * adapter.rank + i, count, factors);
    }
    for (int64_t j = 0; j < count; ++j) projected[i + j] *= adapter.scaling * factors[j];
  }
}

// projected[row] = scaling * mask * (left right), for this thread's rows: h in forward, dh in
// backward. The mask falls on the output, [m, rank], where dropout is on the rank.
template <class Right>
inline void project_to_rank(const RowBlock& block, const AdapterView& adapter,
                            const LeftTiles& left, const Right& right, float* projected) {
  const Range rows = block.own_rows;
  const OutputView out{projected, ElementType::float32, block.num_rows, adapter.rank};
  const auto finish = [&](const StripPart& part) { store_part(part, rows.first, out); };
  for_strips({0, adapter.rank}, STRIP_COLUMNS, [&](Range columns) {
    const Strip strip(block.strips, rows.size(), columns);
    begin_strip(strip);
    if (columns.size() <= LANES) {
      add_product<1>(strip, left, rows.first, right, finish);
    } else {
      add_product(strip, left, rows.first, right, finish);
    }
  });
  scale_and_drop(block, adapter, projected);
}

// Dropout of the input of A, or null.
inline const Dropout* input_dropout(const AdapterView& adapter) {
  return adapter.dropout_on == DropoutOn::input ? &adapter.dropout : nullptr;
}

// h of this thread's rows, from the tiles of x; where the input is dropped, they are packed here.
inline void compute_h(const RowBlock& block, const AdapterView& adapter, const MatrixView& source,
                      const LeftTiles& x, float* h) {
  if (const Dropout* dropout = input_dropout(adapter)) {
    pack_left(block.of(source, dropout), block.own_rows, x);
  }
  project_to_rank(block, adapter, x, TransposedDensePanels{{adapter.a}}, h);
}

// A layer's h, as rows and as tiles. Each layer has its own: while one thread is at a layer, others
// are at the next, whose rows may have another length.
struct LayerH {
  float *rows, *tiles;
};

// The matrices that the threads share during a row block.
struct ForwardScratch {
  float *x, *dropped;
  float* few;  // where there are few rows
  std::vector<LayerH> h;
  std::vector<SharedRange> columns;  // [row blocks, layers]
};

// Few rows are not packed; for their h the threads share ranks.
inline bool is_few(const ForwardTask& task, const RowBlock& block) {
  return takes_few_rows(task.x.columns, block.num_rows) &&
         std::all_of(task.layers.begin(), task.layers.end(), [](const ForwardLayer& layer) {
           return layer.adapter.dropout_on == DropoutOn::nothing;
         });
}

inline LeftTiles h_of_few_rows(const RowBlock& block, const AdapterView& adapter, const LayerH& h) {
  return {h.tiles, block.num_rows, adapter.rank};
}

inline void forward_few_rows(const ForwardTask& task, const RowBlock& block, const Team& team,
                             const ForwardScratch& scratch) {
  const FewRows x(task.x, block.num_rows, scratch.few);
  x.prepare(block.of(task.x), team.share_of(x.k, BLOCK_CODES));
  const Range rows{block.first_row, block.first_row + block.num_rows};
  for (size_t i = 0; i < task.layers.size(); ++i) {
    const AdapterView& adapter = task.layers[i].adapter;
    const Range ranks = team.share_of(adapter.rank, 1);
    const LeftTiles h = h_of_few_rows(block, adapter, scratch.h[i]);
    few_rows_to_rank(task.x, rows, adapter, ranks, h);
  }
}

inline void forward_rows(const ForwardTask& task, const RowBlock& block,
                         const ForwardScratch& scratch) {
  const int64_t k = task.x.columns;
  const DenseRows source = block.of(task.x);
  pack_left(source, block.own_rows, block.tiles(scratch.x, k));
  for (size_t i = 0; i < task.layers.size(); ++i) {
    const AdapterView& adapter = task.layers[i].adapter;
    if (adapter.rank == 0) continue;
    float* tiles = input_dropout(adapter) != nullptr ? scratch.dropped : scratch.x;
    const LayerH& h = scratch.h[i];
    compute_h(block, adapter, task.x, block.tiles(tiles, k), h.rows);
    pack_left(as_rows(h.rows, block.num_rows, adapter.rank), block.own_rows,
              block.tiles(h.tiles, adapter.rank));
  }
}

// The columns of a row, if it has data.
inline void read_columns(const MatrixView& row, Range columns, float* target) {
  if (row.data != nullptr) DenseRows{row}.read(0, columns.first, columns.size(), target);
}

// sums[row][c] = scale[c] sums[row][c] + bias[c]
inline void scale_part(const StripPart& part, const float* scale, const float* bias) {
  for (int half = 0; half < 2; ++half) {
    const Floats factor = load(scale + half * LANES), shift = load(bias + half * LANES);
    for (int64_t row = part.rows.first; row < part.rows.last; ++row) {
      float* sums = part.row(row) + half * LANES;
      store(sums, fused_multiply_add(factor, load(sums), shift));
    }
  }
}

// What meets a strip of so many columns at most, packed rows and few: h, and add(layer, strip,
// finish) for the product with W; finish(part) is called where sums are complete.
struct PackedProducts {
  LeftTiles x, h;

  // Where tiles stay in L2 anyhow, rows of W are better read on and on than in turns.
  int64_t strip_columns() const {
    constexpr int64_t TILES_IN_L2 = 1 << 18;  // floats
    return x.rows * x.depth <= TILES_IN_L2 ? TILE_COLUMNS : STRIP_COLUMNS;
  }

  template <class Finish>
  void add(const ForwardLayer& layer, const Strip& strip, const Finish& finish) const {
    add_product(strip, x, 0, TransposedWeightPanels{layer.weight}, finish);
  }
};

struct FewProducts {
  FewRowsTimesWeight product;
  LeftTiles h;

  int64_t strip_columns() const { return TILE_COLUMNS; }

  template <class Finish>
  void add(const ForwardLayer&, const Strip& strip, const Finish& finish) const {
    const int64_t column = strip.columns.first;
    product.add(column, strip);
    finish(StripPart{column, {0, strip.num_rows}, strip.sums});
  }
};

template <class Products>
inline void forward_columns(const ForwardLayer& layer, const RowBlock& block,
                            const Products& products, Range own_columns) {
  const bool is_scaled = layer.output_scale.data != nullptr;
  for_strips(own_columns, products.strip_columns(), [&](Range columns) {
    const Strip strip = block.strip(columns);
    float bias[STRIP_COLUMNS] = {}, scale[STRIP_COLUMNS] = {};
    read_columns(layer.bias, columns, bias);
    read_columns(layer.output_scale, columns, scale);
    begin_strip(strip, is_scaled ? nullptr : bias);
    const TransposedDensePanels b{{layer.adapter.b}};
    if (layer.adapter.rank > 0) add_product(strip, products.h, b);
    products.add(layer, strip, [&](const StripPart& part) {
      const int64_t at = part.column - columns.first;
      if (is_scaled) scale_part(part, scale + at, bias + at);
      store_part(part, block.first_row, layer.y);
    });
  });
}

// What one thread does of a row block.
inline void forward_block(const ForwardTask& task, const RowBlock& block, const Team& team,
                          ForwardScratch& scratch) {
  const bool few = is_few(task, block);
  if (few) {
    forward_few_rows(task, block, team, scratch);
  } else {
    forward_rows(task, block, scratch);
  }
  team.wait();
  for (size_t i = 0; i < task.layers.size(); ++i) {
    const ForwardLayer& layer = task.layers[i];
    if (few) {
      const FewRows x(task.x, block.num_rows, scratch.few);
      const LeftTiles h = h_of_few_rows(block, layer.adapter, scratch.h[i]);
      const FewProducts products{{layer.weight, x}, h};
      forward_columns(layer, block, products, team.share_of(layer.weight.n, TILE_COLUMNS));
    } else {
      const LeftTiles x = block.tiles(scratch.x, task.x.columns);
      const LeftTiles h = block.tiles(scratch.h[i].tiles, layer.adapter.rank);
      SharedRange& columns = scratch.columns[block.index * task.layers.size() + i];
      columns.for_parts(layer.weight.n, TILE_COLUMNS, STRIP_COLUMNS, team, [&](Range part) {
        forward_columns(layer, block, PackedProducts{x, h}, part);
      });
    }
  }
  team.wait();
}

inline void forward(const ForwardTask& task, int num_threads) {
  const int64_t m = task.x.rows, k = task.x.columns, block_rows = rows_per_block(m, k);
  int64_t num_columns = 0, largest_rank = 0;
  bool drops_input = false;
  for (const ForwardLayer& layer : task.layers) {
    num_columns += layer.weight.n;
    largest_rank = std::max(largest_rank, layer.adapter.rank);
    drops_input |= input_dropout(layer.adapter) != nullptr;
  }
  const int threads = threads_for_product(m, num_columns, k, num_threads);

  const int64_t x_size = Workspace::padded(block_rows * k);
  const int64_t dropped_size = drops_input ? x_size : 0;
  const int64_t h_size = Workspace::padded(block_rows * largest_rank);
  const int64_t few_size = Workspace::padded(FewRows::size(std::min(m, FEW_ROWS), k));
  const int64_t strip_size = Workspace::padded(Strip::size(block_rows));
  const int64_t num_layers = static_cast<int64_t>(task.layers.size());
  Workspace workspace(x_size + dropped_size + 2 * num_layers * h_size + few_size +
                      threads * strip_size);
  ForwardScratch scratch{workspace.take(x_size),
                         workspace.take(dropped_size),
                         workspace.take(few_size),
                         {},
                         std::vector<SharedRange>(num_row_blocks(m, block_rows) * num_layers)};
  for (int64_t i = 0; i < num_layers; ++i) {
    float* const rows = workspace.take(h_size);
    scratch.h.push_back({rows, workspace.take(h_size)});
  }
  float* strips = workspace.take(threads * strip_size);
  parallel(threads, [&](const Team& team) {
    for_row_blocks(task.x, block_rows, strips + team.thread * strip_size, team,
                   [&](const RowBlock& block) { forward_block(task, block, team, scratch); });
  });
}
