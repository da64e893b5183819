// The adapter's products with few rows, which need no packing.

// sums[i] = <left, right[i]> for COUNT rows of `right`, `stride` apart.
template <int COUNT, class Left, class Right>
inline void dots(const Left* left, const Right* right, int64_t stride, int64_t length,
                 float* sums) {
  Floats totals[COUNT];
  std::fill(totals, totals + COUNT, zeros());
  int64_t i = 0;
  for (; i + LANES <= length; i += LANES) {
    const Floats factor = load(left + i);
#pragma GCC unroll 4
    for (int j = 0; j < COUNT; ++j) {
      totals[j] = fused_multiply_add(factor, load(right + j * stride + i), totals[j]);
    }
  }
  for (int j = 0; j < COUNT; ++j) {
    sums[j] = sum_of_lanes(totals[j]);
    for (int64_t d = i; d < length; ++d) {
      sums[j] += to_float(left[d]) * to_float(right[j * stride + d]);
    }
  }
}

// The same for `count` rows of `right`: in fours, each of which loads `left` once.
template <class Left, class Right>
inline void dots_of_rows(const Left* left, const Right* right, int64_t stride, int64_t length,
                         int64_t count, float* sums) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) dots<4>(left, right + i * stride, stride, length, sums + i);
  for (; i < count; ++i) dots<1>(left, right + i * stride, stride, length, sums + i);
}

// h[row][r] = s <x[row], a[r]> for the ranks `range`, of rows from first_row on.
inline void few_rows_to_rank(const MatrixView& x, Range rows, const AdapterView& adapter,
                             Range range, float* h) {
  dispatch(x.type, [&](auto* x_tag) {
    dispatch(adapter.a.type, [&](auto* a_tag) {
      const auto* from = static_cast<const std::remove_pointer_t<decltype(x_tag)>*>(x.data);
      const auto* a = static_cast<const std::remove_pointer_t<decltype(a_tag)>*>(adapter.a.data);
      const int64_t stride = adapter.a.stride;
      for (int64_t row = rows.first; row < rows.last; ++row, h += adapter.rank) {
        dots_of_rows(from + row * x.stride, a + range.first * stride, stride, x.columns,
                     range.size(), h + range.first);
        for (int64_t r = range.first; r < range.last; ++r) h[r] *= adapter.scaling;
      }
    });
  });
}

// sums[row][c] += <h[row], b[column + c]> for the columns of a strip.
inline void add_few_rows_of_rank(const AdapterView& adapter, int64_t num_rows, const float* h,
                                 int64_t column, float* sums) {
  const int64_t count = std::min(TILE_COLUMNS, adapter.b.rows - column), rank = adapter.rank;
  dispatch(adapter.b.type, [&](auto* tag) {
    const auto* b =
        static_cast<const std::remove_pointer_t<decltype(tag)>*>(adapter.b.data) + column * rank;
    prefetch(b + count * rank,
             count * rank * static_cast<int64_t>(sizeof *b));  // of the next strip
    for (int64_t row = 0; row < num_rows; ++row) {
      float products[TILE_COLUMNS];
      dots_of_rows(h + row * rank, b, rank, rank, count, products);
      for (int64_t c = 0; c < count; ++c) sums[row * TILE_COLUMNS + c] += products[c];
    }
  });
}
