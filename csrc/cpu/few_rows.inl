// The product with W for a few rows of x, as in generation: each code is decoded once, in
// registers, and multiplied with every row at once. Nothing is packed or stored but the sums.

constexpr int64_t FEW_ROWS = 8;

// Whether a pair of vectors never straddles a byte or a block.
inline bool takes_few_rows(int64_t k, int64_t num_rows) {
  return num_rows <= FEW_ROWS && k % TILE_COLUMNS == 0;
}

// sums[i * TILE_COLUMNS] += <x[i], W[n]>, x [ROWS, k]
template <int ROWS, class Decoder>
inline void add_dots(const WeightView& weight, const Decoder& decoder, int64_t n, const float* x,
                     float* sums) {
  constexpr int CHAINS = ROWS <= 4 ? 2 : 1;  // One chain of few rows would wait for its latency.
  Floats dots[ROWS][CHAINS];
  for (auto& row : dots) std::fill(row, row + CHAINS, zeros());
  const int64_t start = n * weight.k;
  const uint8_t* codes = codes_at<Decoder>(weight, start);
  const float* const x_end = x + weight.k;
  for (int64_t first = start; x < x_end;) {
    const int64_t run = run_in_block(weight, first, x_end - x);
    const Floats scale = broadcast(weight.scale_at(first));
    first += run;
    for (const float* run_end = x + run; x < run_end; x += TILE_COLUMNS) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, codes += Decoder::VECTOR_BYTES) {
        const Floats values = decoder(codes) * scale;
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
          Floats& dot = dots[i][half % CHAINS];
          dot = fused_multiply_add(values, load(x + i * weight.k + half * LANES), dot);
        }
      }
    }
  }
  for (int i = 0; i < ROWS; ++i) {
    Floats dot = dots[i][0];
    if (CHAINS == 2) dot += dots[i][CHAINS - 1];
    sums[i * TILE_COLUMNS] += sum_of_lanes(dot);
  }
}

// sums[i][c] += <x[i], W[column + c]> for num_rows <= ROWS rows of x and the columns of a strip.
template <int ROWS>
inline void add_dots_of_strip(const WeightView& weight, int64_t num_rows, int64_t column,
                              const float* x, float* sums) {
  if constexpr (ROWS > 1) {
    if (num_rows < ROWS) {
      return add_dots_of_strip<ROWS - 1>(weight, num_rows, column, x, sums);
    }
  }
  const int64_t count = std::min(TILE_COLUMNS, weight.n - column);
  with_decoder(weight, [&](const auto& decoder) {
    for (int64_t c = 0; c < count; ++c) add_dots<ROWS>(weight, decoder, column + c, x, sums + c);
  });
}

// Where products are paired: cells for few_rows, in the order in which shifts of a word of eight
// codes come by them. The high nibble of a byte comes first, and a cell has codes of both halves.
constexpr int CELL_ORDER[8] = {1, 5, 0, 4, 3, 7, 2, 6};

// cells[d][row] = pairs of all rows of `source`, which are as many as `num_rows`.
inline void pack_few_rows(const DenseRows& source, int64_t num_rows, float* cells) {
  static_assert(DEPTH % 8 == 0);
  alignas(64) float rows[std::max(FEW_ROWS, TILE_ROWS)][DEPTH];
  float values[DEPTH];
  if (num_rows == 0) return;  // another thread has them all
  const int64_t k = source.matrix.columns;
  for (int64_t first = 0; first < k; first += DEPTH) {
    const int64_t depth = std::min(DEPTH, k - first);
    for (int64_t row = 0; row < num_rows; ++row) {
      source.read(row, first, depth, values);
      for (int64_t i = 0; i < depth; ++i) rows[row][i] = values[i / 8 * 8 + CELL_ORDER[i % 8]];
      pair_row(rows[row], depth);
    }
    pack_tile(num_rows, rows[0], DEPTH, 1, {0, depth / 2}, cells + first / 2 * num_rows);
  }
}

// target[i] = scale of block first + i.
inline void read_scales(const ScalesView& scales, int64_t first, int64_t count, float* target) {
  if (scales.codes == nullptr) {
    std::copy_n(scales.absmax + first, count, target);
    return;
  }
  for (int64_t done = 0, run; done < count; done += run) {
    const int64_t block = first + done;
    run = std::min(count - done, NESTED_BLOCK - block % NESTED_BLOCK);
    const Floats nested = broadcast(scales.nested_absmax[block / NESTED_BLOCK]);
    int64_t i = 0;
    for (; i + LANES <= run; i += LANES) {
      const Floats values = look_up(scales.map, scales.codes + block + i) * nested;
      store(target + done + i, values + broadcast(scales.offset));
    }
    for (; i < run; ++i) target[done + i] = scales.at(block + i);
  }
}

// Depths that have one scale in every row.
inline int64_t depths_per_scale(const WeightView& weight) {
  return weight.k % weight.block_size() == 0 ? weight.block_size() : TILE_COLUMNS;
}

// scales[s][c] = that of the step steps.first + s of row column + c. The blocks of whole rows
// follow each other.
inline void gather_scales(const WeightView& weight, int64_t column, Range steps, float* scales) {
  const int64_t step = depths_per_scale(weight), count = steps.size();
  const int64_t num_steps = weight.k / step;
  float* const rows = scales + count * LANES;
  if (step != weight.block_size()) {
    for (int64_t i = 0; i < LANES * count; ++i) {
      const int64_t row = column + i / count, depth = (steps.first + i % count) * step;
      rows[i] = weight.scale_at(row * weight.k + depth);
    }
  } else if (count == num_steps) {
    read_scales(weight.scales, column * num_steps, LANES * count, rows);
  } else {
    for (int64_t c = 0; c < LANES; ++c) {
      read_scales(weight.scales, (column + c) * num_steps + steps.first, count, rows + c * count);
    }
  }
  for (int64_t c = 0; c < LANES; ++c) {
    for (int64_t s = 0; s < count; ++s) {
      scales[s * LANES + c] = rows[c * count + s];
    }
  }
}

template <int ROWS = FEW_ROWS>
inline void add_paired_dots(int64_t num_rows, const PairedRows& weight, const float* cells,
                            float* sums) {
  if constexpr (ROWS > 1) {
    if (num_rows < ROWS) return add_paired_dots<ROWS - 1>(num_rows, weight, cells, sums);
  }
  add_paired_dots<ROWS>(weight, cells, sums);
}

// sums[i][c] += <x[i], W[column + c]> for the columns of a whole strip; `scratch` is a panel's.
inline void add_paired_dots_of_strip(const WeightView& weight, int64_t num_rows, int64_t column,
                                     const float* cells, const Strip& strip) {
  const int64_t step = depths_per_scale(weight), num_steps = weight.k / step;
  constexpr int64_t STEPS_TOGETHER = DEPTH * TILE_COLUMNS / (2 * LANES);
  for (int64_t half = 0; half < TILE_COLUMNS; half += LANES) {
    for (int64_t first = 0; first < num_steps; first += STEPS_TOGETHER) {
      const int64_t count = std::min(STEPS_TOGETHER, num_steps - first), depth = first * step;
      gather_scales(weight, column + half, {first, first + count}, strip.panel);
      const uint8_t* codes = weight.codes + ((column + half) * weight.k + depth) / 2;
      const PairedRows rows{
          codes, weight.k / 2, weight.rounded->values, weight.rounded->unit, strip.panel,
          count, step};
      add_paired_dots(num_rows, rows, cells + depth / 2 * num_rows, strip.sums + half);
    }
  }
}
