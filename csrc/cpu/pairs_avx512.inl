// Products of bf16 by vdpbf16ps: a cell of 32 bits holds two consecutive depths of one row or
// column, the first in its low half, and a lane adds both products at once.

// panel[d] = the cells of rows 2 d and 2 d + 1 of a panel of floats, in place.
[[gnu::noinline]] inline void pair_rows(float* panel, int64_t depth) {
  constexpr int64_t ROW = 2 * LANES;
  const __m512i interleaved =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  if (depth % 2 != 0) std::fill_n(panel + depth * ROW, ROW, 0.0f);
  const float* row = panel;
  for (int64_t d = 0; d < depth; d += 2, row += 2 * ROW, panel += ROW) {
    for (int64_t c = 0; c < ROW; c += LANES) {
      const __m512 first = _mm512_loadu_ps(row + c), second = _mm512_loadu_ps(row + ROW + c);
      const auto rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
      _mm512_storeu_si512(panel + c, _mm512_permutexvar_epi16(interleaved, rounded));
    }
  }
}

// sums[row][column] += the products of the cells left[d][row] and panel[d][column].
template <int HEIGHT>
[[gnu::noinline]] void multiply_paired_tile(const float* left, const float* panel, int64_t depth,
                                            float* sums) {
  constexpr int64_t ROW = 2 * LANES;
  __m512 tile[HEIGHT][2];
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i) tile[i][0] = tile[i][1] = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int64_t d = 0; d < depth; ++d, left += HEIGHT, panel += ROW) {
    const auto right0 = reinterpret_cast<__m512bh>(_mm512_loadu_ps(panel));
    const auto right1 = reinterpret_cast<__m512bh>(_mm512_loadu_ps(panel + LANES));
#pragma GCC unroll 16
    for (int i = 0; i < HEIGHT; ++i) {
      const auto cell = reinterpret_cast<__m512bh>(_mm512_set1_ps(left[i]));
      tile[i][0] = _mm512_dpbf16_ps(tile[i][0], cell, right0);
      tile[i][1] = _mm512_dpbf16_ps(tile[i][1], cell, right1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < HEIGHT; ++i, sums += ROW) {
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), tile[i][0]));
    _mm512_storeu_ps(sums + LANES, _mm512_add_ps(_mm512_loadu_ps(sums + LANES), tile[i][1]));
  }
}

// sums[i][lane] += <x[i], W[lane]> for ROWS rows of x, in cells as few_rows.inl packs them: a shift
// of a word by 4 s leaves the codes of one cell as 16-bit indices, of which only five bits count,
// and the fifth is made not to. Each scale multiplies a sum, not its weights.
template <int ROWS>
[[gnu::noinline]] void add_paired_dots(const PairedRows& weight, const float* cells, float* sums) {
  constexpr int CHAINS = ROWS == 1 ? 4 : ROWS <= 4 ? 2 : 1;  // few would wait for their latency
  const __m512i codebook =
      _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight.codebook)));
  EvenRows rows{{}, weight.row_bytes};
  for (int i = 0; i < 4; ++i) rows.quarters[i] = weight.codes + 4 * i * weight.row_bytes;
  const float* scales = weight.scales;
  __m512 totals[ROWS];
  for (auto& total : totals) total = _mm512_setzero_ps();
  for (int64_t i = 0; i < weight.num_steps; ++i, scales += LANES) {
    __m512 dots[ROWS][CHAINS];
    for (auto& row : dots) std::fill(row, row + CHAINS, _mm512_setzero_ps());
    for (int64_t depth = 0; depth < weight.step; depth += 32) {
      Words words[4];
      gather_words(rows, words);
      for (const uint8_t*& quarter : rows.quarters) quarter += 16;
#pragma GCC unroll 4
      for (int w = 0; w < 4; ++w) {
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s, cells += ROWS) {
          const auto index =
              _mm512_srli_epi16(reinterpret_cast<__m512i>(words[w]), static_cast<unsigned>(4 * s));
          const auto right = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(index, codebook));
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) {
            const auto cell = reinterpret_cast<__m512bh>(_mm512_set1_ps(cells[r]));
            dots[r][s % CHAINS] = _mm512_dpbf16_ps(dots[r][s % CHAINS], cell, right);
          }
        }
      }
    }
    const __m512 scale = _mm512_loadu_ps(scales);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      __m512 dot = dots[r][0];
#pragma GCC unroll 4
      for (int chain = 1; chain < CHAINS; ++chain) dot = _mm512_add_ps(dot, dots[r][chain]);
      totals[r] = _mm512_fmadd_ps(dot, scale, totals[r]);
    }
  }
  const __m512 unit = _mm512_set1_ps(weight.unit);
  for (int r = 0; r < ROWS; ++r, sums += 2 * LANES) {
    _mm512_storeu_ps(sums, _mm512_fmadd_ps(totals[r], unit, _mm512_loadu_ps(sums)));
  }
}
