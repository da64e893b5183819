// dh = s (dy b) o mask            dx = dy W + dh a          (dropout on the input: (dh a) o mask)
// da = dh^T x  (or drop(x))       db = dy^T h               dbias = column sums of dy
//
// With an output scale g, g dy stands for dy but in dbias, and dscale = column sums of dy * scaled.
//
// Row blocks as in forward. The threads share the rows for dh and h, then the columns of every
// output, so that no sum is split between threads: results do not depend on their number. Those of
// dx come last and are taken by who is free.

// fp32 sums over row blocks, in the order of the columns that threads own; b's gradient is summed
// transposed, [rank, n].
struct GradientSums {
  float *da, *db;
  double *dbias, *dscale;
};

// The matrices of one layer that the threads share during a row block; `projected` is dh or h of
// each thread's own rows, and as h in forward not shared with other layers.
struct LayerScratch {
  float *dy, *projected, *dh_tiles, *dh_transposed, *h_transposed;
  GradientSums sums;
};

// And those of all layers: x is packed once.
struct BackwardScratch {
  float *x, *dropped;
  float* spread;  // [threads], where there are few rows
  std::vector<LayerScratch> layers;
  std::vector<SharedRange> dx_columns;  // [row blocks]
};

inline bool is_needed(const OutputView& out) {
  return out.data != nullptr;
}

inline void clear_sums(const BackwardLayer& layer, const GradientSums& sums) {
  const int64_t n = layer.weight.n, k = layer.weight.k, rank = layer.adapter.rank;
  if (is_needed(layer.da)) std::fill_n(sums.da, rank * k, 0.0f);
  if (is_needed(layer.db)) std::fill_n(sums.db, rank * n, 0.0f);
  if (is_needed(layer.dbias)) std::fill_n(sums.dbias, n, 0.0);
  if (is_needed(layer.dscale)) std::fill_n(sums.dscale, n, 0.0);
}

inline void backward_rows(const BackwardLayer& layer, const BackwardTask& task,
                          const RowBlock& block, const BackwardScratch& shared,
                          const LayerScratch& own) {
  const AdapterView& adapter = layer.adapter;
  const Range rows = block.own_rows;
  const int64_t num_rows = block.num_rows, rank = adapter.rank;
  const bool reads_dy = is_needed(task.dx) || is_needed(layer.da);
  const LeftTiles dy = block.tiles(own.dy, layer.weight.n);
  if (reads_dy) {
    pack_left({layer.dy, block.first_row, nullptr, layer.output_scale}, rows, dy);
  }
  if (reads_dy && rank > 0) {
    project_to_rank(block, adapter, dy, DensePanels{{adapter.b}}, own.projected);
    pack_left(as_rows(own.projected, num_rows, rank), rows, block.tiles(own.dh_tiles, rank));
    pack_left_transposed(own.projected, rows, block.transposed(own.dh_transposed, rank));
  }
  if (is_needed(layer.db)) {
    float* x = input_dropout(adapter) != nullptr ? shared.dropped : shared.x;
    compute_h(block, adapter, task.x, block.tiles(x, layer.weight.k), own.projected);
    pack_left_transposed(own.projected, rows, block.transposed(own.h_transposed, rank));
  }
}

// The strip's sums += partial's, without the elements of the input that forward dropped.
inline void add_masked(const RowBlock& block, const Dropout& dropout, int64_t num_columns,
                       const Strip& partial, const Strip& strip) {
  const float* added = partial.sums;
  strip.for_panels([&](int64_t column, float* sums) {
    const int64_t count = std::min(TILE_COLUMNS, num_columns - column);
    float factors[TILE_COLUMNS];
    for (int64_t row = 0; row < block.num_rows; ++row) {
      const int64_t index = (block.first_row + row) * num_columns + column;
      dropout_factors(dropout, index, count, factors);
      for (int64_t c = 0; c < count; ++c) sums[c] += added[c] * factors[c];
      added += TILE_COLUMNS;
      sums += TILE_COLUMNS;
    }
  });
}

// The strip's sums += dh a, without what forward dropped.
inline void add_dh_times_a(const BackwardLayer& layer, const RowBlock& block,
                           const LayerScratch& own, float* partial_sums, const Strip& strip) {
  const AdapterView& adapter = layer.adapter;
  const LeftTiles dh_tiles = block.tiles(own.dh_tiles, adapter.rank);
  const DensePanels a{{adapter.a}};
  if (const Dropout* dropout = input_dropout(adapter)) {
    const Strip partial(partial_sums, block.num_rows, strip.columns);
    begin_strip(partial);
    add_product(partial, dh_tiles, a);
    add_masked(block, *dropout, layer.weight.k, partial, strip);
  } else if (adapter.rank > 0) {
    add_product(strip, dh_tiles, a);
  }
}

inline void backward_dx(const BackwardTask& task, const RowBlock& block,
                        const BackwardScratch& scratch, float* partial_sums, Range own_columns) {
  for_strips(own_columns, STRIP_COLUMNS, [&](Range columns) {
    const Strip strip = block.strip(columns);
    begin_strip(strip);
    for (size_t i = 0; i < task.layers.size(); ++i) {
      const BackwardLayer& layer = task.layers[i];
      const LayerScratch& own = scratch.layers[i];
      add_dh_times_a(layer, block, own, partial_sums, strip);
      const LeftTiles dy_tiles = block.tiles(own.dy, layer.weight.n);
      const bool is_last = i + 1 == task.layers.size();
      add_product(strip, dy_tiles, 0, WeightPanels{layer.weight}, [&](const StripPart& part) {
        if (is_last) store_part(part, block.first_row, task.dx);
      });
    }
  });
}

inline bool is_few(const BackwardTask& task) {
  return std::all_of(task.layers.begin(), task.layers.end(), [](const BackwardLayer& layer) {
    return spreads_few_rows(layer.weight, layer.dy.rows);
  });
}

// The same for a few rows of dy.
inline void backward_dx_of_few_rows(const BackwardTask& task, const RowBlock& block,
                                    const BackwardScratch& scratch, float* partial_sums,
                                    const Team& team) {
  const int64_t k = task.dx.columns, m = block.num_rows;
  float* const memory = scratch.spread + team.thread * SpreadSums::size(m);
  const Range own = team.share_of(k, SPREAD_COLUMNS);
  const int64_t most = SpreadSums::most_columns(m), count = (own.size() + most - 1) / most;
  for (int64_t i = 0; i < count; ++i) {
    const Range part = part_of(own.size(), SPREAD_COLUMNS, i, count);
    const SpreadSums sums(memory, m, {own.first + part.first, own.first + part.last});
    for (size_t j = 0; j < task.layers.size(); ++j) {
      const WeightView& weight = task.layers[j].weight;
      add_spread_rows(weight, block.tiles(scratch.layers[j].dy, weight.n), sums);
    }
    for_strips(sums.columns, STRIP_COLUMNS, [&](Range columns) {
      const Strip strip = block.strip(columns);
      begin_strip(strip);
      for (size_t j = 0; j < task.layers.size(); ++j) {
        add_dh_times_a(task.layers[j], block, scratch.layers[j], partial_sums, strip);
      }
      sums.add_to(strip);
      strip.for_panels([&](int64_t column, float* complete) {
        store_part({column, {0, m}, complete}, block.first_row, task.dx);
      });
    });
  }
}

// sums [rank, columns] += left [rank, rows] right [rows, columns]
inline void add_gradient(const RowBlock& block, const LeftTiles& left, const DenseRows& right,
                         Range own_columns, float* sums) {
  const int64_t num_columns = right.matrix.columns;
  for_strips(own_columns, STRIP_COLUMNS, [&](Range columns) {
    const Strip strip(block.strips, left.rows, columns);
    begin_strip(strip);
    add_product(strip, left, 0, DensePanels{right}, [&](const StripPart& part) {
      const int64_t count = std::min(TILE_COLUMNS, num_columns - part.column);
      for (int64_t row = part.rows.first; row < part.rows.last; ++row) {
        float* target = sums + row * num_columns + part.column;
        for (int64_t c = 0; c < count; ++c) target[c] += part.row(row)[c];
      }
    });
  });
}

// sums[c] += the sum over the rows of source, or of its products with `other` if that has data. In
// double: a float sum over thousands of rows would err more than torch's pairwise one.
inline void add_column_sums(const DenseRows& source, const DenseRows& other, int64_t num_rows,
                            Range columns, double* sums) {
  float values[DEPTH], factors[DEPTH];
  std::fill(factors, factors + DEPTH, 1.0f);
  for (int64_t column = columns.first; column < columns.last; column += DEPTH) {
    const int64_t count = std::min(DEPTH, columns.last - column);
    for (int64_t row = 0; row < num_rows; ++row) {
      source.read(row, column, count, values);
      if (other.matrix.data != nullptr) other.read(row, column, count, factors);
      for (int64_t c = 0; c < count; ++c) {
        sums[column + c] += static_cast<double>(values[c]) * static_cast<double>(factors[c]);
      }
    }
  }
}

inline void backward_columns(const BackwardLayer& layer, const MatrixView& x, const RowBlock& block,
                             const LayerScratch& own, const Team& team) {
  const int64_t num_rows = block.num_rows, rank = layer.adapter.rank;
  const auto transposed = [&](float* data) { return block.transposed(data, rank); };
  const Range own_k = team.share_of(layer.weight.k, TILE_COLUMNS);
  const Range own_n = team.share_of(layer.weight.n, TILE_COLUMNS);
  if (is_needed(layer.da)) {
    const DenseRows rows = block.of(x, input_dropout(layer.adapter));
    add_gradient(block, transposed(own.dh_transposed), rows, own_k, own.sums.da);
  }
  const DenseRows dy = block.of(layer.dy);
  if (is_needed(layer.db)) {
    add_gradient(block, transposed(own.h_transposed), dy, own_n, own.sums.db);
  }
  if (is_needed(layer.dbias)) add_column_sums(dy, {}, num_rows, own_n, own.sums.dbias);
  if (is_needed(layer.dscale)) {
    add_column_sums(dy, block.of(layer.scaled), num_rows, own_n, own.sums.dscale);
  }
}

// Calls body with a typed pointer to the gradient, if it is needed.
template <class Body>
inline void fill(const OutputView& out, const Body& body) {
  if (!is_needed(out)) return;
  dispatch(out.type, [&](auto* tag) { body(static_cast<decltype(tag)>(out.data)); });
}

inline void store_column_sums(const OutputView& out, const double* sums, Range columns) {
  fill(out, [&](auto* target) {
    for (int64_t column = columns.first; column < columns.last; ++column) {
      const float sum = static_cast<float>(sums[column]);
      convert(target + column, &sum, 1);
    }
  });
}

// Rounds the finished sums of this thread's columns into the gradients.
inline void store_gradients(const BackwardLayer& layer, const GradientSums& sums,
                            const Team& team) {
  const int64_t rank = layer.adapter.rank, num_k = layer.weight.k, num_n = layer.weight.n;
  const Range own_k = team.share_of(num_k, TILE_COLUMNS),
              own_n = team.share_of(num_n, TILE_COLUMNS);
  fill(layer.da, [&](auto* out) {
    for (int64_t row = 0; row < rank; ++row) {
      const int64_t first = row * num_k + own_k.first;
      convert(out + first, sums.da + first, own_k.size());
    }
  });
  fill(layer.db, [&](auto* out) {
    for (int64_t row = own_n.first; row < own_n.last; ++row) {
      const float scale = layer.output_scale == nullptr ? 1.0f : layer.output_scale[row];
      for (int64_t r = 0; r < rank; ++r) {
        const float sum = scale * sums.db[r * num_n + row];
        convert(out + row * rank + r, &sum, 1);
      }
    }
  });
  store_column_sums(layer.dbias, sums.dbias, own_n);
  store_column_sums(layer.dscale, sums.dscale, own_n);
}

// Whether a gradient of b is asked for, for which h = x a^T is computed anew.
inline bool needs_h(const BackwardTask& task) {
  return std::any_of(task.layers.begin(), task.layers.end(),
                     [](const BackwardLayer& layer) { return is_needed(layer.db); });
}

// What backward needs of scratch memory, and which part of it is whose.
struct BackwardSizes {
  int64_t block_rows, x = 0, dropped = 0, strip;

  BackwardSizes(const BackwardTask& task, int64_t m) {
    int64_t depth = 0, rank = 0;
    bool drops_input = false;
    for (const BackwardLayer& layer : task.layers) {
      depth = std::max({depth, layer.weight.n, layer.weight.k});
      rank = std::max(rank, layer.adapter.rank);
      drops_input |= input_dropout(layer.adapter) != nullptr;
    }
    const int64_t k = task.layers.front().weight.k;
    block_rows = rows_per_block(m, depth);
    x = needs_h(task) ? Workspace::padded(block_rows * k) : 0;
    dropped = x > 0 && drops_input ? x : 0;
    strip = Workspace::padded(Strip::size(std::max(block_rows, rank)));
  }

  // Calls part(size) for each part of one layer, in the order of LayerScratch.
  template <class Part>
  LayerScratch of(const BackwardLayer& layer, const Part& part) const {
    const int64_t n = layer.weight.n, k = layer.weight.k, rank = layer.adapter.rank;
    const int64_t h_size = block_rows * rank;
    float* const dy = part(block_rows * n);
    float* const projected = part(h_size);
    float* const dh_tiles = part(h_size);
    float* const dh_transposed = part(h_size);
    float* const h_transposed = part(is_needed(layer.db) ? h_size : 0);
    float* const da = part(is_needed(layer.da) ? rank * k : 0);
    float* const db = part(is_needed(layer.db) ? rank * n : 0);
    const auto doubles = [&](const OutputView& out) {
      return reinterpret_cast<double*>(part(is_needed(out) ? 2 * n : 0));
    };
    double* const dbias = doubles(layer.dbias);
    double* const dscale = doubles(layer.dscale);
    return {dy, projected, dh_tiles, dh_transposed, h_transposed, {da, db, dbias, dscale}};
  }

  // Of all layers together.
  int64_t layers(const BackwardTask& task) const {
    int64_t sum = 0;
    for (const BackwardLayer& layer : task.layers) {
      of(layer, [&](int64_t size) -> float* {
        sum += Workspace::padded(size);
        return nullptr;
      });
    }
    return sum;
  }
};

// What one thread does of a row block.
inline void backward_block(const BackwardTask& task, const RowBlock& block, const Team& team,
                           BackwardScratch& scratch, float* partial) {
  const int64_t k = task.layers.front().weight.k;
  if (needs_h(task)) pack_left(block.of(task.x), block.own_rows, block.tiles(scratch.x, k));
  for (size_t i = 0; i < task.layers.size(); ++i) {
    backward_rows(task.layers[i], task, block, scratch, scratch.layers[i]);
  }
  team.wait();
  for (size_t i = 0; i < task.layers.size(); ++i) {
    backward_columns(task.layers[i], task.x, block, scratch.layers[i], team);
  }
  if (is_needed(task.dx) && is_few(task)) {
    backward_dx_of_few_rows(task, block, scratch, partial, team);
  } else if (is_needed(task.dx)) {
    scratch.dx_columns[block.index].for_parts(
        k, TILE_COLUMNS, STRIP_COLUMNS, team,
        [&](Range part) { backward_dx(task, block, scratch, partial, part); });
  }
  team.wait();
}

inline void backward(const BackwardTask& task, int num_threads) {
  const int64_t m = task.layers.front().dy.rows, k = task.layers.front().weight.k;
  int64_t num_columns = 0;
  for (const BackwardLayer& layer : task.layers) num_columns += layer.weight.n;
  const int threads = threads_for_product(m, num_columns, k, num_threads);

  const BackwardSizes sizes(task, m);
  const int64_t spread_size = is_few(task) ? threads * SpreadSums::size(m) : 0;
  Workspace workspace(sizes.layers(task) + sizes.x + sizes.dropped + 2 * threads * sizes.strip +
                      spread_size);
  BackwardScratch scratch{workspace.take(sizes.x),
                          workspace.take(sizes.dropped),
                          workspace.take(spread_size),
                          {},
                          std::vector<SharedRange>(num_row_blocks(m, sizes.block_rows))};
  for (const BackwardLayer& layer : task.layers) {
    scratch.layers.push_back(sizes.of(layer, [&](int64_t size) { return workspace.take(size); }));
    clear_sums(layer, scratch.layers.back().sums);
  }
  float* strips = workspace.take(2 * threads * sizes.strip);
  parallel(threads, [&](const Team& team) {
    float* const own_strips = strips + 2 * team.thread * sizes.strip;
    float* const partial = own_strips + sizes.strip;
    for_row_blocks(task.layers.front().dy, sizes.block_rows, own_strips, team, [&](RowBlock block) {
      block.paired &= !is_few(task);
      backward_block(task, block, team, scratch, partial);
    });
    for (size_t i = 0; i < task.layers.size(); ++i) {
      store_gradients(task.layers[i], scratch.layers[i].sums, team);
    }
  });
}
