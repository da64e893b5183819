// 8-bit states in vectors: formats/blockwise8.py has the rule, common/state_codec.h the codes.

// Reads LANES states at a time; codes of a short block are padded with zeros, not read beyond.
template <bool SIGNED>
struct StateReader {
  const float* map;
  const uint8_t* codes;
  Floats absmax;

  StateReader(const StateCodec<SIGNED>& codec, const uint8_t* source, float scale, int64_t count,
              uint8_t (&padded)[STATE_BLOCK])
      : map(codec.map), codes(source), absmax(broadcast(scale)) {
    if (count % LANES == 0) return;
    std::copy(source, source + count, padded);
    std::fill(padded + count, padded + STATE_BLOCK, static_cast<uint8_t>(codec.ZERO));
    codes = padded;
  }

  Floats operator()(int64_t i) const { return look_up(map, codes + i) * absmax; }
};

// Codes of TOGETHER values.
template <bool SIGNED>
struct StateEncoder {
  using Codec = StateCodec<SIGNED>;
  const Codec& codec;
  float inverse;
  Table8 slope{codec.slope}, bound{reinterpret_cast<const float*>(codec.bound)};

  void operator()(const float* values, uint8_t* codes) const {
    Floats scaled[4];
    Words magnitude[4], place[4], limited[4];
    for (int i = 0; i < 4; ++i) {
      scaled[i] = load(values + i * LANES) * inverse;
      magnitude[i] = reinterpret_cast<Words>(scaled[i]);
      if constexpr (SIGNED) magnitude[i] &= 0x7fffffffu;
    }
    find_places(magnitude, place, limited);
    if constexpr (SIGNED) {
      store_signed_codes(codes, limited, scaled);
    } else {
      store_unsigned_codes(codes, limited, scaled);
    }
    if (any_near_whole(place, Codec::NEAR)) [[unlikely]] {
      for (int64_t i = 0; i < TOGETHER; ++i) codes[i] = codec.encode(values[i] * inverse);
    }
  }

 private:
  void find_places(const Words (&magnitude)[4], Words (&place)[4], Words (&limited)[4]) const {
    Words region[4];
    for (int i = 0; i < 4; ++i) {
      region[i] = scaled_upper_half(magnitude[i], Codec::LEAST, Codec::DECADE);
    }
    for (int i = 0; i < 4; ++i) {
      const auto last = reinterpret_cast<SignedWords>(bound[region[i]]);
      const SignedWords is_above = reinterpret_cast<SignedWords>(magnitude[i]) > last;
      region[i] -= reinterpret_cast<Words>(is_above);  // All ones: minus one.
    }
    Floats line[4];
    for (int i = 0; i < 4; ++i) {
      // Adding to its exponent doubles START once per region.
      const Words start = broadcast_word(bits_of(Codec::START)) + (region[i] << 23);
      line[i] = fused_multiply_add(reinterpret_cast<Floats>(magnitude[i]), slope[region[i]],
                                   reinterpret_cast<Floats>(start));
    }
    for (int i = 0; i < 4; ++i) {
      const auto limit =
          reinterpret_cast<SignedWords>(shift_left(broadcast_word(Codec::LIMIT), region[i]));
      const SignedWords units = __builtin_convertvector(line[i], SignedWords);
      place[i] = reinterpret_cast<Words>(units);
      limited[i] = reinterpret_cast<Words>(units < limit ? units : limit);
    }
  }
};

// codes[0, count) = codes of values * factor.
template <bool SIGNED>
inline void encode_map(const StateCodec<SIGNED>& codec, const float* values, int64_t count,
                       float factor, uint8_t* codes) {
  const StateEncoder<SIGNED> encoder{codec, factor};
  int64_t i = 0;
  for (; i + TOGETHER <= count; i += TOGETHER) encoder(values + i, codes + i);
  for (; i < count; ++i) codes[i] = codec.encode(values[i] * factor);
}

// Stores the codes of a block whose largest magnitude is given; returns its absmax.
template <bool SIGNED>
inline float encode_state(const StateCodec<SIGNED>& codec, const float* values, int64_t count,
                          float largest, uint8_t* codes) {
  const float absmax = largest < MIN_STATE ? 0.0f : largest;
  encode_map(codec, values, count, absmax == 0.0f ? 0.0f : 1.0f / absmax, codes);
  return absmax;
}
