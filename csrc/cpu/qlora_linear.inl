// y = x W^T + h b^T + bias,  h = s drop(x a^T) or s drop(x) a^T
//
// Rows of x go in blocks of ROW_BLOCK. A block is packed once, by its rows shared among the
// threads, each of which computes h for its rows; then the threads share the columns of y, and each
// decodes the rows of W that belong to its columns: every code is decoded once per row block, into
// L1.

constexpr int64_t ROW_BLOCK = 128 * TILE_ROWS;

// Where the rows of one block are kept while it is worked on; shared by the threads.
struct RowBlock {
  int64_t first_row, num_rows;

  DenseRows of(const MatrixView& matrix, const Dropout* dropout = nullptr) const {
    return {matrix, first_row, dropout};
  }
};

// A row-major fp32 scratch matrix of a row block.
inline OutputView as_output(float* data, int64_t rows, int64_t columns) {
  return {data, ElementType::float32, rows, columns};
}

inline DenseRows as_rows(const float* data, int64_t rows, int64_t columns) {
  return {{data, ElementType::float32, rows, columns, columns}, 0, nullptr};
}

// projected[row] = scaling * mask * (left b^T or left b), for the rows of this thread: h in
// forward, dh in backward. The mask falls on the output, [m, rank], where dropout is on the rank.
template <class Right>
inline void project_to_rank(const Strip& strip, const AdapterView& adapter, const RowBlock& block,
                            const LeftTiles& left, Range rows, const Right& right,
                            float* projected) {
  static const float start[TILE_COLUMNS] = {};
  const OutputView out = as_output(projected, block.num_rows, adapter.rank);
  for (int64_t column = 0; column < adapter.rank; column += TILE_COLUMNS) {
    begin_strip(strip, rows.size(), start);
    add_product(strip, left, rows, right, column);
    store_strip(strip, rows.size(), column, rows.first, out);
  }
  const bool masked = adapter.dropout_on == DropoutOn::rank;
  for (int64_t i = rows.first * adapter.rank; i < rows.last * adapter.rank; ++i) {
    const auto index = static_cast<uint64_t>(block.first_row * adapter.rank + i);
    projected[i] *= masked ? adapter.scaling * adapter.dropout.factor(index) : adapter.scaling;
  }
}

// Dropout of the input of A, or null.
inline const Dropout* input_dropout(const AdapterView& adapter) {
  return adapter.dropout_on == DropoutOn::input ? &adapter.dropout : nullptr;
}

// h of this thread's rows; `x` are their tiles, used as they are unless the input is dropped.
inline void compute_h(const Strip& strip, const AdapterView& adapter, const RowBlock& block,
                      const MatrixView& source, const LeftTiles& x, Range rows, float* h) {
  if (adapter.dropout_on == DropoutOn::input) {
    pack_left(block.of(source, &adapter.dropout), rows, x);
  }
  project_to_rank(strip, adapter, block, x, rows, TransposedDensePanels{{adapter.a}}, h);
}

// The matrices that the threads share during a row block.
struct ForwardScratch {
  float *x, *dropped, *h, *h_tiles;
  float* x_rows;  // x in fp32 as it lies, where there are few rows
};

inline void forward_columns(const ForwardTask& task, const RowBlock& block, const Strip& strip,
                            const ForwardScratch& scratch, Range columns) {
  const Range rows{0, block.num_rows};
  const LeftTiles x{scratch.x, block.num_rows, task.x.columns};
  const LeftTiles h{scratch.h_tiles, block.num_rows, task.adapter.rank};
  const TransposedWeightPanels weight{task.weight};
  const TransposedDensePanels b{{task.adapter.b}};
  for (int64_t column = columns.first; column < columns.last; column += TILE_COLUMNS) {
    float start[TILE_COLUMNS] = {};
    if (task.bias.data != nullptr) {
      const int64_t count = std::min(TILE_COLUMNS, task.bias.columns - column);
      DenseRows{task.bias}.read(0, column, count, start);
    }
    begin_strip(strip, block.num_rows, start);
    if (task.adapter.rank > 0) add_product(strip, h, rows, b, column);
    if (takes_few_rows(task.weight, block.num_rows)) {
      add_dots_of_strip<FEW_ROWS>(task.weight, block.num_rows, column, scratch.x_rows, strip.sums);
    } else {
      add_product(strip, x, rows, weight, column);
    }
    store_strip(strip, block.num_rows, column, block.first_row, task.y);
  }
}

inline void forward_block(const ForwardTask& task, const RowBlock& block, const Strip& strip,
                          const ForwardScratch& scratch, int thread, int threads) {
  const AdapterView& adapter = task.adapter;
  const Range rows = share(block.num_rows, TILE_ROWS, thread, threads);
  pack_left(block.of(task.x), rows, {scratch.x, block.num_rows, task.x.columns});
  if (takes_few_rows(task.weight, block.num_rows)) {
    for (int64_t row = rows.first; row < rows.last; ++row) {
      block.of(task.x).read(row, 0, task.x.columns, scratch.x_rows + row * task.x.columns);
    }
  }
  if (adapter.rank > 0) {
    const LeftTiles x{input_dropout(adapter) != nullptr ? scratch.dropped : scratch.x,
                      block.num_rows, task.x.columns};
    compute_h(strip, adapter, block, task.x, x, rows, scratch.h);
    pack_left(as_rows(scratch.h, block.num_rows, adapter.rank), rows,
              {scratch.h_tiles, block.num_rows, adapter.rank});
  }
  barrier(threads);
  forward_columns(task, block, strip, scratch, share(task.weight.n, TILE_COLUMNS, thread, threads));
  barrier(threads);
}

inline void forward(const ForwardTask& task, int num_threads) {
  const int64_t m = task.x.rows, n = task.weight.n, k = task.weight.k;
  const int64_t rank = task.adapter.rank;
  const int64_t block_rows = std::min(m, ROW_BLOCK);
  const int64_t dropped_size = input_dropout(task.adapter) != nullptr ? block_rows * k : 0;
  const int threads = threads_for(m * n * k, num_threads);

  const int64_t strip_size = Workspace::padded(Strip::size(block_rows));
  Workspace workspace(Workspace::padded(block_rows * k) + Workspace::padded(dropped_size) +
                      2 * Workspace::padded(block_rows * rank) + Workspace::padded(FEW_ROWS * k) +
                      threads * strip_size);
  const ForwardScratch scratch{workspace.take(block_rows * k), workspace.take(dropped_size),
                               workspace.take(block_rows * rank), workspace.take(block_rows * rank),
                               workspace.take(FEW_ROWS * k)};
  float* strips = workspace.take(threads * strip_size);
  parallel(threads, [&](int thread, int team) {
    const Strip strip(strips + thread * strip_size);
    for (int64_t first = 0; first < m; first += ROW_BLOCK) {
      const RowBlock block{first, std::min(ROW_BLOCK, m - first)};
      forward_block(task, block, strip, scratch, thread, team);
    }
  });
}
