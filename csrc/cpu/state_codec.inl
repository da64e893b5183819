// 8-bit states in vectors: formats/blockwise8.py has the rule, common/state_codec.h the codes.

// Codes of TOGETHER values.
template <bool SIGNED>
struct StateEncoder {
  const StateCodec<SIGNED>& codec;
  float inverse;
  StatePlaces<SIGNED> places{codec};

  void operator()(const float* values, uint8_t* codes) const {
    Floats scaled[4];
    for (int i = 0; i < 4; ++i) scaled[i] = load(values + i * LANES) * inverse;
    const uint64_t near = places(scaled, codes);
    if (near != 0) [[unlikely]] {
      for (int64_t i = 0; i < TOGETHER; ++i) {
        if (near >> i & 1) codes[i] = codec.encode(values[i] * inverse);
      }
    }
  }
};

struct NothingBeside {
  void operator()(int64_t) const {}
};

// codes[0, count) = codes of values * factor; beside(i) is done before values from i on.
template <bool SIGNED, class Beside = NothingBeside>
inline void encode_map(const StateCodec<SIGNED>& codec, const float* values, int64_t count,
                       float factor, uint8_t* codes, const Beside& beside = {}) {
  const StateEncoder<SIGNED> encoder{codec, factor};
  int64_t i = 0;
  for (; i + TOGETHER <= count; i += TOGETHER) {
    beside(i);
    encoder(values + i, codes + i);
  }
  for (; i < count; ++i) codes[i] = codec.encode(values[i] * factor);
}

// Stores the codes of a block whose largest magnitude is given; returns its absmax.
template <bool SIGNED, class Beside>
inline float encode_state(const StateCodec<SIGNED>& codec, const float* values, int64_t count,
                          float largest, uint8_t* codes, const Beside& beside) {
  const float absmax = largest < MIN_STATE ? 0.0f : largest;
  encode_map(codec, values, count, absmax == 0.0f ? 0.0f : 1.0f / absmax, codes, beside);
  return absmax;
}
