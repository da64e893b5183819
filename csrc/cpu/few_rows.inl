// The product with W for a few rows of x, as in generation: each code is decoded once, in
// registers, and multiplied with every row at once. Nothing is packed or stored but the sums.

constexpr int64_t FEW_ROWS = 8;

// Whether a pair of vectors never straddles a byte or a block.
inline bool takes_few_rows(int64_t k, int64_t num_rows) {
  return num_rows <= FEW_ROWS && k % TILE_COLUMNS == 0;
}

// sums[i * TILE_COLUMNS] += <x[i], W[n]>, x [ROWS, k]. Each block is summed by itself, so that one
// large product rounds away no more than what shares its block.
template <int ROWS, class Decoder>
inline void add_dots(const WeightView& weight, const Decoder& decoder, int64_t n, const float* x,
                     float* sums) {
  constexpr int CHAINS = ROWS <= 4 ? 2 : 1;  // One chain of few rows would wait for its latency.
  Floats totals[ROWS];
  std::fill(totals, totals + ROWS, zeros());
  const int64_t start = n * weight.k;
  const uint8_t* codes = codes_at<Decoder>(weight, start);
  const float* const x_end = x + weight.k;
  for (int64_t first = start; x < x_end;) {
    const int64_t run = run_in_block(weight, first, x_end - x);
    const Floats scale = broadcast(weight.scale_at(first));
    first += run;
    Floats dots[ROWS][CHAINS];
    for (auto& row : dots) std::fill(row, row + CHAINS, zeros());
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
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      for (int chain = 0; chain < CHAINS; ++chain) totals[i] += dots[i][chain];
    }
  }
  for (int i = 0; i < ROWS; ++i) sums[i * TILE_COLUMNS] += sum_of_lanes(totals[i]);
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
