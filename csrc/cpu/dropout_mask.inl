// dropout_mask: LANES counters run through Philox side by side.

// factors[j] = the factor of element first + j.
inline void dropout_factors(const Dropout& dropout, uint64_t first, int64_t count, float* factors) {
  for (int64_t j = 0; j < count; ++j) {
    factors[j] = dropout.factor(first + static_cast<uint64_t>(j));
  }
}

inline void dropout_mask(const Dropout& dropout, float* out, int64_t size, int num_threads) {
  parallel(threads_for(size, num_threads), [&](int thread, int threads) {
    const Range range = share(size, DECODE_PIECE, thread, threads);
    dropout_factors(dropout, static_cast<uint64_t>(range.first), range.last - range.first,
                    out + range.first);
  });
}
