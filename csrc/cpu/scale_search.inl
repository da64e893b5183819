// scale_search: of several scales the one with the least squared error on a block.
//
// A block comes divided by its absmax, x in [-1, 1], and a scale as its ratio to that absmax, so
// that no square overflows. Errors are compared bit by bit between instruction sets and with the
// reference, so their sums have one order: eight running sums, value i in sum i % 8, then halves.
// Each square counts by the importance of its column, where columns have one.

constexpr int64_t NUM_SUMS = 8;
using Sums = float __attribute__((vector_size(NUM_SUMS * sizeof(float))));

// Values that are looked at together: whole vectors, and every sum the same number of times.
constexpr int64_t SEARCHED = std::max<int64_t>(NUM_SUMS, LANES);

// A scale of zero makes every value zero, whatever the codes.
inline float inverse_of(float ratio) {
  return ratio == 0.0f ? 0.0f : 1.0f / ratio;
}

struct ScaledBlock {
  const float* x;
  const float* importance;  // of each value, or null
  int64_t count;
};

struct ScaleSearch {
  const Codebook& book;
  const Ranker& ranker;
  Table16 by_rank{book.by_rank};

  // Sum over the block of importance (x - nearest value * ratio)^2.
  float error_of(const ScaledBlock& block, float ratio) const {
    return block.importance != nullptr ? sum_of<true>(block, ratio) : sum_of<false>(block, ratio);
  }

  template <bool weighted>
  float sum_of(const ScaledBlock& block, float ratio) const {
    const float* x = block.x;
    const float inverse = inverse_of(ratio);
    Sums sums = {};
    int64_t i = 0;
    for (; i + SEARCHED <= block.count; i += SEARCHED) {
      Floats squares[SEARCHED / LANES];
      for (int64_t part = 0; part < SEARCHED / LANES; ++part) {
        const Floats value = load(x + i + part * LANES);
        const Words rank = ranker(value * broadcast(inverse));
        const Floats error = value - by_rank[rank] * broadcast(ratio);
        squares[part] = error * error;
        if constexpr (weighted) squares[part] *= load(block.importance + i + part * LANES);
      }
      Sums rounds[SEARCHED / NUM_SUMS];
      std::memcpy(rounds, squares, sizeof rounds);
      for (const Sums& round : rounds) sums += round;
    }
    float sum[NUM_SUMS];
    std::memcpy(sum, &sums, sizeof sum);
    for (; i < block.count; ++i) {
      const float error = x[i] - book.by_rank[book.rank(x[i] * inverse)] * ratio;
      sum[i % NUM_SUMS] += weighted ? error * error * block.importance[i] : error * error;
    }
    for (int64_t width = NUM_SUMS / 2; width > 0; width /= 2) {
      for (int64_t j = 0; j < width; ++j) sum[j] += sum[j + width];
    }
    return sum[0];
  }

  // The first of the best ratios whose scale is finite; 1, absmax itself, comes before all others.
  float best_ratio(const ScaledBlock& block, float absmax, std::span<const float> ratios) const {
    float best = 1.0f, least = error_of(block, best);
    for (const float ratio : ratios) {
      const float error = error_of(block, ratio);
      if (error < least && std::isfinite(ratio * absmax)) {
        least = error;
        best = ratio;
      }
    }
    return best;
  }
};
