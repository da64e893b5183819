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
  const auto size_of = [&](size_t i) { return gradients[i].columns; };
  const Blocks all(gradients.size(), size_of);
  std::vector<double> sums(static_cast<size_t>(all.count()));
  const int threads = threads_for(all.count() * STATE_BLOCK, num_threads);
  parallel(threads, [&](const Team& team) {
    all.visit(team.share_of(all.count(), 1), [&](size_t i, Range blocks) {
      dispatch(gradients[i].type, [&](auto* tag) {
        const auto* values = static_cast<decltype(tag)>(const_cast<void*>(gradients[i].data));
        for (int64_t block = blocks.first; block < blocks.last; ++block) {
          const int64_t first = block * STATE_BLOCK;
          sums[static_cast<size_t>(all.starts[i] + block)] =
              squares_of_block(values + first, std::min(STATE_BLOCK, size_of(i) - first));
        }
      });
    });
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}
