// h of a few rows, for which neither they nor A are packed.

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

// The tiles of h [rows, rank] = s <x[row], a[r]>, for the ranks `range`.
inline void few_rows_to_rank(const MatrixView& x, Range rows, const AdapterView& adapter,
                             Range range, const LeftTiles& h) {
  dispatch(x.type, [&](auto* x_tag) {
    dispatch(adapter.a.type, [&](auto* a_tag) {
      const auto* from = static_cast<const std::remove_pointer_t<decltype(x_tag)>*>(x.data);
      const auto* a = static_cast<const std::remove_pointer_t<decltype(a_tag)>*>(adapter.a.data);
      const int64_t stride = adapter.a.stride;
      for (int64_t r = range.first; r < range.last; r += 4) {
        const int64_t count = std::min<int64_t>(range.last - r, 4);
        for (int64_t row = rows.first; row < rows.last; ++row) {
          float products[4];
          dots_of_rows(from + row * x.stride, a + r * stride, stride, x.columns, count, products);
          for (int64_t i = 0; i < count; ++i) {
            h.at(row - rows.first, r + i) = adapter.scaling * products[i];
          }
        }
      }
    });
  });
}
