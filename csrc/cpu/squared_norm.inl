// squared_norm: the sum of all squares of many gradients, the same bits for any number of threads
// and instruction set: each block has a sum of its own, and they are added up in order. Squares of
// floats are exact in double, and so far from its limits that the sum is finite where they are.

constexpr int64_t NORM_SUMS = 32;  // enough to hide the latency of an addition

inline double squares_of_whole_block(const float* values) {
  double sums[NORM_SUMS] = {};
  for (int64_t i = 0; i < STATE_BLOCK; i += NORM_SUMS) {
#pragma GCC unroll 32
    for (int64_t lane = 0; lane < NORM_SUMS; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  for (int64_t width = NORM_SUMS / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  return sums[0];
}

// How far ahead values are asked for: two pages of floats, where the hardware's prefetchers stop.
constexpr int64_t NORM_AHEAD = 8 * STATE_BLOCK;

template <class Element>
inline double squares_of_block(const Element* source, int64_t count) {
  if constexpr (std::is_same_v<Element, float>) {
    if (count == STATE_BLOCK) return squares_of_whole_block(source);
  }
  float values[STATE_BLOCK];
  read_padded(source, count, values);
  return squares_of_whole_block(values);
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
          prefetch(values + first + NORM_AHEAD, STATE_BLOCK * int64_t{sizeof *values});
          sums[static_cast<size_t>(all.starts[i] + block)] =
              squares_of_block(values + first, std::min(STATE_BLOCK, size_of(i) - first));
        }
      });
    });
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}
