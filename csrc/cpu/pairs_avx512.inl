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
