// norm[n] = |W_n + s b_n a|, by   |W_n|^2 + 2 s <W_n a^T, b_n> + s^2 <b_n a a^T, b_n>
//
// Each thread decodes its rows of W once, for every row of a and for their own squares. All sums
// are double: the three terms cancel where s b a nears -W. Products of floats are exact in double.

using Doubles = double __attribute__((vector_size(sizeof(Floats))));

constexpr int64_t WIDE_LANES = LANES / 2;
constexpr int64_t RANKS_TOGETHER = 8;  // Enough sums in registers to hide the latency of one.

inline Doubles load_wide(const double* source) {
  Doubles values;
  std::memcpy(&values, source, sizeof values);
  return values;
}

inline double sum_of_lanes(Doubles values) {
  double sum = 0;
  for (int i = 0; i < WIDE_LANES; ++i) sum += values[i];
  return sum;
}

// dots[i] += <row, right[i]> for HEIGHT rows of `right`, `stride` apart.
template <int64_t HEIGHT>
inline void add_wide_dots(const double* row, const double* right, int64_t stride, int64_t depth,
                          double* dots) {
  Doubles sums[HEIGHT] = {};
  int64_t d = 0;
  for (; d + WIDE_LANES <= depth; d += WIDE_LANES) {
    const Doubles values = load_wide(row + d);
#pragma GCC unroll 8
    for (int64_t i = 0; i < HEIGHT; ++i) sums[i] += values * load_wide(right + i * stride + d);
  }
  for (int64_t i = 0; i < HEIGHT; ++i) {
    double sum = sum_of_lanes(sums[i]);
    for (int64_t rest = d; rest < depth; ++rest) sum += row[rest] * right[i * stride + rest];
    dots[i] += sum;
  }
}

// dots[i] += <row, right[i]> for `count` rows of `right`.
inline void add_wide_dots(const double* row, const double* right, int64_t stride, int64_t depth,
                          int64_t count, double* dots) {
  int64_t i = 0;
  for (; i + RANKS_TOGETHER <= count; i += RANKS_TOGETHER) {
    add_wide_dots<RANKS_TOGETHER>(row, right + i * stride, stride, depth, dots + i);
  }
  for (; i < count; ++i) add_wide_dots<1>(row, right + i * stride, stride, depth, dots + i);
}

// target[0, columns) = the row of a matrix.
inline void read_wide(const MatrixView& matrix, int64_t row, double* target) {
  float values[DEPTH];
  for (int64_t first = 0; first < matrix.columns; first += DEPTH) {
    const int64_t count = std::min(DEPTH, matrix.columns - first);
    DenseRows{matrix}.read(row, first, count, values);
    std::copy(values, values + count, target + first);
  }
}

// What the threads share: a and a a^T; and what each has: a row's dots with a, and its row of b.
struct NormScratch {
  double *a, *gram;  // [rank, k], [rank, rank]
  double *dots, *b;  // [rank]
};

// |W_n|^2, and the dots of W_n with the rows of a.
inline double square_and_dots(const NormTask& task, int64_t n, const NormScratch& scratch) {
  const int64_t k = task.weight.k, rank = task.adapter.rank;
  std::fill(scratch.dots, scratch.dots + rank, 0.0);
  float values[DEPTH];
  double row[DEPTH], square = 0;
  for (int64_t first = 0; first < k; first += DEPTH) {
    const int64_t depth = std::min(DEPTH, k - first);
    decode(task.weight, n * k + first, depth, values);
    std::copy(values, values + depth, row);
    add_wide_dots<1>(row, row, 0, depth, &square);
    add_wide_dots(row, scratch.a + first, k, depth, rank, scratch.dots);
  }
  return square;
}

inline float norm_of_row(const NormTask& task, int64_t n, const NormScratch& scratch) {
  const int64_t rank = task.adapter.rank;
  const double scaling = static_cast<double>(task.adapter.scaling);
  double square = square_and_dots(task, n, scratch);
  read_wide(task.adapter.b, n, scratch.b);
  for (int64_t i = 0; i < rank; ++i) {
    double gram_dot = 0;
    add_wide_dots<1>(scratch.b, scratch.gram + i * rank, 0, rank, &gram_dot);
    square += scaling * scratch.b[i] * (2 * scratch.dots[i] + scaling * gram_dot);
  }
  return static_cast<float>(std::sqrt(std::max(square, 0.0)));
}

inline void dora_column_norm(const NormTask& task, int num_threads) {
  const int64_t n = task.weight.n, k = task.weight.k, rank = task.adapter.rank;
  const int threads = threads_for_product(2 * rank, n, k, num_threads);
  const auto doubles = [](int64_t count) { return Workspace::padded(2 * count); };
  const int64_t a_size = doubles(rank * k), gram_size = doubles(rank * rank), row = doubles(rank);
  Workspace workspace(a_size + gram_size + threads * 2 * row);
  const auto take = [&](int64_t size) { return reinterpret_cast<double*>(workspace.take(size)); };
  double *a = take(a_size), *gram = take(gram_size), *rows = take(threads * 2 * row);
  parallel(threads, [&](const Team& team) {
    double* own = rows + team.thread * row;  // Two rows of floats are one of doubles.
    const NormScratch scratch{a, gram, own, own + row / 2};
    const Range ranks = team.share_of(rank, 1), own_rows = team.share_of(n, 1);
    for (int64_t i = ranks.first; i < ranks.last; ++i) read_wide(task.adapter.a, i, a + i * k);
    team.wait();
    std::fill(gram + ranks.first * rank, gram + ranks.last * rank, 0.0);
    for (int64_t i = ranks.first; i < ranks.last; ++i) {
      add_wide_dots(a + i * k, a, k, k, rank, gram + i * rank);
    }
    team.wait();
    for (int64_t i = own_rows.first; i < own_rows.last; ++i) {
      task.norm[i] = norm_of_row(task, i, scratch);
    }
  });
}
