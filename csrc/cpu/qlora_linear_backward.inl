// dh = s (dy b) o mask            dx = dy W + dh a          (dropout on the input: (dh a) o mask)
// da = dh^T x  (or drop(x))       db = dy^T h               dbias = column sums of dy
//
// Row blocks as in forward. The threads share the rows for dh and h, then the columns of every
// output, so that no sum is split between threads: results do not depend on their number.

// fp32 sums over row blocks, in the order of the columns that threads own; b's gradient is summed
// transposed, [rank, n].
struct GradientSums {
  float *da, *db;
  double* dbias;
};

// The matrices that the threads share during a row block.
struct BackwardScratch {
  float *dy, *x, *dh, *dh_tiles, *dh_transposed, *h, *h_transposed;
  GradientSums sums;
};

inline bool is_needed(const OutputView& out) {
  return out.data != nullptr;
}

inline void backward_rows(const BackwardTask& task, const RowBlock& block,
                          const BackwardScratch& scratch) {
  const AdapterView& adapter = task.adapter;
  const Range rows = block.own_rows;
  const int64_t num_rows = block.num_rows, rank = adapter.rank;
  const bool reads_dy = is_needed(task.dx) || is_needed(task.da);
  const LeftTiles dy{scratch.dy, num_rows, task.weight.n};
  if (reads_dy) pack_left(block.of(task.dy), rows, dy);
  if (reads_dy && rank > 0) {
    project_to_rank(block, adapter, dy, DensePanels{{adapter.b}}, scratch.dh);
    pack_left(as_rows(scratch.dh, num_rows, rank), rows, {scratch.dh_tiles, num_rows, rank});
    pack_left_transposed(scratch.dh, rows, {scratch.dh_transposed, rank, num_rows});
  }
  if (is_needed(task.db)) {
    const LeftTiles x{scratch.x, num_rows, task.weight.k};
    if (input_dropout(adapter) == nullptr) pack_left(block.of(task.x), rows, x);
    compute_h(block, adapter, task.x, x, scratch.h);
    pack_left_transposed(scratch.h, rows, {scratch.h_transposed, rank, num_rows});
  }
}

// The strip of dh a has been summed: drops the elements of the input that forward dropped.
inline void mask_strip(const RowBlock& block, const Dropout& dropout, int64_t column,
                       int64_t num_columns) {
  const int64_t count = std::min(TILE_COLUMNS, num_columns - column);
  float factors[TILE_COLUMNS];
  for (int64_t row = 0; row < block.num_rows; ++row) {
    const int64_t index = (block.first_row + row) * num_columns + column;
    dropout_factors(dropout, index, count, factors);
    float* sums = block.strip.sums + row * TILE_COLUMNS;
    for (int64_t c = 0; c < count; ++c) sums[c] *= factors[c];
  }
}

inline void backward_dx(const BackwardTask& task, const RowBlock& block,
                        const BackwardScratch& scratch, Range columns) {
  static const float start[TILE_COLUMNS] = {};
  const AdapterView& adapter = task.adapter;
  const Strip& strip = block.strip;
  const LeftTiles dy{scratch.dy, block.num_rows, task.weight.n};
  const LeftTiles dh{scratch.dh_tiles, block.num_rows, adapter.rank};
  const WeightPanels weight{task.weight};
  for (int64_t column = columns.first; column < columns.last; column += TILE_COLUMNS) {
    begin_strip(strip, block.num_rows, start);
    if (adapter.rank > 0) {
      add_product(strip, dh, block.all_rows(), DensePanels{{adapter.a}}, column);
    }
    if (const Dropout* dropout = input_dropout(adapter)) {
      mask_strip(block, *dropout, column, task.weight.k);
    }
    add_product(strip, dy, block.all_rows(), weight, column);
    store_strip(strip, block.num_rows, column, block.first_row, task.dx);
  }
}

// sums [rank, columns] += left [rank, rows] right [rows, columns]
inline void add_gradient(const Strip& strip, const LeftTiles& left, const DenseRows& right,
                         Range columns, float* sums) {
  static const float start[TILE_COLUMNS] = {};
  const int64_t num_columns = right.matrix.columns;
  for (int64_t column = columns.first; column < columns.last; column += TILE_COLUMNS) {
    const int64_t count = std::min(TILE_COLUMNS, num_columns - column);
    begin_strip(strip, left.rows, start);
    add_product(strip, left, {0, left.rows}, DensePanels{right}, column);
    for (int64_t row = 0; row < left.rows; ++row) {
      for (int64_t c = 0; c < count; ++c) {
        sums[row * num_columns + column + c] += strip.sums[row * TILE_COLUMNS + c];
      }
    }
  }
}

// In double: a float sum over thousands of rows would err more than torch's pairwise one.
inline void add_column_sums(const DenseRows& source, int64_t num_rows, Range columns,
                            double* sums) {
  float values[DEPTH];
  for (int64_t column = columns.first; column < columns.last; column += DEPTH) {
    const int64_t count = std::min(DEPTH, columns.last - column);
    for (int64_t row = 0; row < num_rows; ++row) {
      source.read(row, column, count, values);
      for (int64_t c = 0; c < count; ++c) sums[column + c] += static_cast<double>(values[c]);
    }
  }
}

// The columns of every output that one thread owns.
struct OwnColumns {
  Range k, n;

  OwnColumns(const WeightView& weight, const Team& team)
      : k(team.share_of(weight.k, TILE_COLUMNS)), n(team.share_of(weight.n, TILE_COLUMNS)) {}
};

inline void backward_columns(const BackwardTask& task, const RowBlock& block,
                             const BackwardScratch& scratch, const OwnColumns& own) {
  const int64_t num_rows = block.num_rows, rank = task.adapter.rank;
  if (is_needed(task.dx)) backward_dx(task, block, scratch, own.k);
  if (is_needed(task.da)) {
    const DenseRows x = block.of(task.x, input_dropout(task.adapter));
    add_gradient(block.strip, {scratch.dh_transposed, rank, num_rows}, x, own.k, scratch.sums.da);
  }
  const DenseRows dy = block.of(task.dy);
  if (is_needed(task.db)) {
    add_gradient(block.strip, {scratch.h_transposed, rank, num_rows}, dy, own.n, scratch.sums.db);
  }
  if (is_needed(task.dbias)) add_column_sums(dy, num_rows, own.n, scratch.sums.dbias);
}

// Calls body with a typed pointer to the gradient, if it is needed.
template <class Body>
inline void fill(const OutputView& out, const Body& body) {
  if (!is_needed(out)) return;
  dispatch(out.type, [&](auto* tag) { body(static_cast<decltype(tag)>(out.data)); });
}

// Rounds the finished sums of this thread's columns into the gradients.
inline void store_gradients(const BackwardTask& task, const GradientSums& sums,
                            const OwnColumns& own) {
  const int64_t rank = task.adapter.rank, num_k = task.weight.k, num_n = task.weight.n;
  fill(task.da, [&](auto* out) {
    for (int64_t row = 0; row < rank; ++row) {
      const int64_t first = row * num_k + own.k.first;
      convert(out + first, sums.da + first, own.k.size());
    }
  });
  fill(task.db, [&](auto* out) {
    for (int64_t row = own.n.first; row < own.n.last; ++row) {
      for (int64_t r = 0; r < rank; ++r)
        convert(out + row * rank + r, sums.db + r * num_n + row, 1);
    }
  });
  fill(task.dbias, [&](auto* out) {
    for (int64_t row = own.n.first; row < own.n.last; ++row) {
      const float sum = static_cast<float>(sums.dbias[row]);
      convert(out + row, &sum, 1);
    }
  });
}

inline void backward(const BackwardTask& task, int num_threads) {
  const int64_t m = task.dy.rows, n = task.weight.n, k = task.weight.k, rank = task.adapter.rank;
  const int64_t block_rows = rows_per_block(m, std::max(n, k));
  const int threads = threads_for_product(m, n, k, num_threads);

  const int64_t da_size = is_needed(task.da) ? Workspace::padded(rank * k) : 0;
  const int64_t db_size = is_needed(task.db) ? Workspace::padded(rank * n) : 0;
  const int64_t dbias_size = is_needed(task.dbias) ? Workspace::padded(2 * n) : 0;  // doubles
  const int64_t dy_size = Workspace::padded(block_rows * n);
  const int64_t x_size = is_needed(task.db) ? Workspace::padded(block_rows * k) : 0;
  const int64_t h_size = Workspace::padded(block_rows * rank);
  const int64_t strip_size = Workspace::padded(Strip::size(std::max(block_rows, rank)));
  Workspace workspace(da_size + db_size + dbias_size + dy_size + x_size + 5 * h_size +
                      threads * strip_size);
  const GradientSums sums{workspace.take(da_size), workspace.take(db_size),
                          reinterpret_cast<double*>(workspace.take(dbias_size))};
  std::fill(sums.da, sums.da + da_size, 0.0f);
  std::fill(sums.db, sums.db + db_size, 0.0f);
  std::fill(sums.dbias, sums.dbias + dbias_size / 2, 0.0);
  const BackwardScratch scratch{workspace.take(dy_size), workspace.take(x_size),
                                workspace.take(h_size),  workspace.take(h_size),
                                workspace.take(h_size),  workspace.take(h_size),
                                workspace.take(h_size),  sums};
  float* strips = workspace.take(threads * strip_size);
  parallel(threads, [&](const Team& team) {
    const Strip strip(strips + team.thread * strip_size);
    const OwnColumns own(task.weight, team);
    for_row_blocks(m, block_rows, strip, team, [&](const RowBlock& block) {
      backward_rows(task, block, scratch);
      team.wait();
      backward_columns(task, block, scratch, own);
      team.wait();
    });
    store_gradients(task, sums, own);
  });
}
