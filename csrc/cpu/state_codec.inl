// 8-bit states in vectors: formats/blockwise8.py has the rule, common/state_codec.h the codes.

// Reads LANES states at a time; codes of a short block are padded, not read beyond.
template <bool SIGNED>
struct StateReader {
  const float* map;
  const uint8_t* codes;
  float absmax;
  uint8_t padded[STATE_BLOCK];

  StateReader(const StateCodec<SIGNED>& codec, const uint8_t* source, float scale, int64_t count)
      : map(codec.map), codes(source), absmax(scale) {
    if (count % LANES == 0) return;
    for (int64_t i = 0; i < STATE_BLOCK; ++i) padded[i] = i < count ? source[i] : 0;
    codes = padded;
  }
  StateReader(const StateReader&) = delete;
  StateReader& operator=(const StateReader&) = delete;

  Floats operator()(int64_t i) const { return look_up(map, codes + i) * absmax; }
};

template <bool SIGNED>
inline Words codes_of(const StateCodec<SIGNED>& codec, Floats scaled) {
  using Codec = StateCodec<SIGNED>;
  const Words bits = reinterpret_cast<Words>(scaled);
  const Words least = broadcast_word(Codec::LEAST), most = broadcast_word(Codec::MOST);
  Words word = bits & 0x7fffffffu;
  word = word > least ? word : least;
  word = (word < most ? word : most) - least;
  if constexpr (!SIGNED) return (look_up(codec.cells, word >> Codec::SHIFT) + word) >> Codec::SHIFT;
  const Words negative = reinterpret_cast<Words>(reinterpret_cast<SignedWords>(bits) >> 31);
  word += negative & (Codec::CELLS << Codec::SHIFT);
  const Words code = (look_up(codec.cells, word >> Codec::SHIFT) + word) >> Codec::SHIFT;
  return code ^ (negative & 0xffu);
}

// Returns the block's absmax.
template <bool SIGNED>
inline float encode_state(const StateCodec<SIGNED>& codec, const float* values, int64_t count,
                          uint8_t* codes) {
  constexpr int64_t TOGETHER = 4 * LANES;
  float absmax = float_of(max_magnitude(values, count));
  if (absmax < MIN_STATE) absmax = 0.0f;
  const float inverse = absmax == 0.0f ? 0.0f : 1.0f / absmax;
  int64_t i = 0;
  for (; i + TOGETHER <= count; i += TOGETHER) {
    Words parts[4];
    for (int part = 0; part < 4; ++part) {
      parts[part] = codes_of(codec, load(values + i + part * LANES) * inverse);
    }
    store_bytes(codes + i, parts);
  }
  for (; i < count; ++i) codes[i] = codec.encode(values[i] * inverse);
  return absmax;
}
