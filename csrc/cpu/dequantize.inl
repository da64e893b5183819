// dequantize: the flat range is cut into pieces that stay in L1 between decoding and rounding.

constexpr int64_t DECODE_PIECE = 1024;

template <class Element>
inline void dequantize_range(const WeightView& weight, int64_t first, int64_t last, Element* out) {
  alignas(64) float values[DECODE_PIECE];
  for (; first < last; first += DECODE_PIECE) {
    const int64_t count = std::min(DECODE_PIECE, last - first);
    if constexpr (std::is_same_v<Element, float>) {
      decode(weight, first, count, out + first);
    } else {
      decode(weight, first, count, values);
      convert(out + first, values, count);
    }
  }
}

inline void dequantize(const WeightView& weight, const OutputView& out, int num_threads) {
  const int64_t size = weight.n * weight.k;
  parallel(threads_for(size, num_threads), [&](const Team& team) {
    const Range range = team.share_of(size, DECODE_PIECE);
    dispatch(out.type, [&](auto* tag) {
      dequantize_range(weight, range.first, range.last, static_cast<decltype(tag)>(out.data));
    });
  });
}
