// dropout_mask: LANES counters run through Philox4x32-10 side by side; philox.h tells the rule.

// The first output word for the counters (low, high, 0, 0).
inline Words philox_words(Words low, Words high, uint64_t seed) {
  Words word0 = low, word1 = high, word2 = broadcast_word(0), word3 = word2;
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    Words low0, high0, low2, high2;
    multiply_wide(word0, PHILOX_FACTOR0, low0, high0);
    multiply_wide(word2, PHILOX_FACTOR2, low2, high2);
    word0 = high2 ^ word1 ^ broadcast_word(key0);
    word2 = high0 ^ word3 ^ broadcast_word(key1);
    word1 = low2;
    word3 = low0;
    key0 += PHILOX_KEY_STEP0;
    key1 += PHILOX_KEY_STEP1;
  }
  return word0;
}

// factors[j] = the factor of element first + j.
inline void dropout_factors(const Dropout& dropout, int64_t first, int64_t count, float* factors) {
  uint32_t offsets[LANES];
  std::iota(offsets, offsets + LANES, 0u);
  Words lanes;
  std::memcpy(&lanes, offsets, sizeof lanes);
  const auto index = static_cast<uint64_t>(first);
  int64_t j = 0;
  for (; j + LANES <= count; j += LANES) {
    const uint64_t counter = index + static_cast<uint64_t>(j);
    const Words low = broadcast_word(static_cast<uint32_t>(counter)) + lanes;
    const Words carry = reinterpret_cast<Words>(low < lanes);  // All ones: minus one.
    const Words high = broadcast_word(static_cast<uint32_t>(counter >> 32)) - carry;
    const Words words = philox_words(low, high, dropout.seed);
    const Words kept = reinterpret_cast<Words>(words >= broadcast_word(dropout.threshold));
    const Words scale = reinterpret_cast<Words>(broadcast(dropout.keep_scale));
    store(factors + j, reinterpret_cast<Floats>(kept & scale));
  }
  for (; j < count; ++j) factors[j] = dropout.factor(index + static_cast<uint64_t>(j));
}

inline void dropout_mask(const Dropout& dropout, float* out, int64_t size, int num_threads) {
  parallel(threads_for(size, num_threads), [&](const Team& team) {
    const Range range = team.share_of(size, DECODE_PIECE);
    dropout_factors(dropout, range.first, range.size(), out + range.first);
  });
}
