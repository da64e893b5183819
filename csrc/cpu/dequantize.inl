// dequantize: cut at multiples of a piece, so that threads share no byte of codes.

constexpr int64_t DECODE_PIECE = 1024;

inline void dequantize(const WeightView& weight, const OutputView& out, int num_threads) {
  const int64_t size = weight.n * weight.k;
  parallel(threads_for(size, num_threads), [&](const Team& team) {
    const Range range = team.share_of(size, DECODE_PIECE);
    dispatch(out.type, [&](auto* tag) {
      decode(weight, range.first, range.size(), static_cast<decltype(tag)>(out.data) + range.first);
    });
  });
}
