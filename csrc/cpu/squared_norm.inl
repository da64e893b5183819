// squared_norm: the sum of all squares of many gradients, the same bits for any number of threads
// and instruction set: each block has a sum of its own, and they are added up in order. Squares of
// floats are exact in double, and so far from its limits that the sum is finite where they are.

constexpr int64_t NORM_SUMS = 16;  // enough to hide the latency of an addition

template <class Element>
inline double squares_of_block(const Element* source, int64_t count) {
  float values[STATE_BLOCK];
  read_padded(source, count, values);
  double sums[NORM_SUMS] = {};
  for (int64_t i = 0; i < STATE_BLOCK; i += NORM_SUMS) {
    for (int64_t lane = 0; lane < NORM_SUMS; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  return std::accumulate(sums, sums + NORM_SUMS, 0.0);
}

inline double squared_norm(const std::vector<MatrixView>& gradients, int num_threads) {
  const auto count = static_cast<int64_t>(gradients.size());
  const auto gradient = [&](int64_t i) -> const MatrixView& {
    return gradients[static_cast<size_t>(i)];
  };
  const auto size_of = [&](int64_t i) { return gradient(i).columns; };
  std::vector<int64_t> starts(1, 0);  // the first block of each gradient
  int64_t size = 0;
  for (int64_t i = 0; i < count; ++i) {
    size += size_of(i);
    starts.push_back(starts.back() + blocks_of(size_of(i)));
  }
  std::vector<double> sums(static_cast<size_t>(starts.back()));
  parallel(threads_for(size, num_threads), [&](const Team& team) {
    const Range share = team.share_of(starts.back(), 1);
    for_blocks(share, count, size_of, [&](int64_t i, Range blocks) {
      dispatch(gradient(i).type, [&](auto* tag) {
        const auto* values = static_cast<decltype(tag)>(const_cast<void*>(gradient(i).data));
        for (int64_t block = blocks.first; block < blocks.last; ++block) {
          const int64_t first = block * STATE_BLOCK;
          sums[static_cast<size_t>(starts[static_cast<size_t>(i)] + block)] =
              squares_of_block(values + first, std::min(STATE_BLOCK, size_of(i) - first));
        }
      });
    });
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}
