// What every instruction set's vectors share: loads and stores of each element type.

inline Floats zeros() {
  return broadcast(0.0f);
}

inline Floats load(const float* source) {
  Floats values;
  std::memcpy(&values, source, sizeof values);
  return values;
}
inline Floats load(const BFloat16* source) {
  HalfWords half;
  std::memcpy(&half, source, sizeof half);
  return reinterpret_cast<Floats>(__builtin_convertvector(half, Words) << 16);
}
inline Floats load(const Float16* source) {
  return load_float16(source);
}

inline void store(float* target, Floats values) {
  std::memcpy(target, &values, sizeof values);
}
inline void store(BFloat16* target, Floats values) {
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Words quiet = bits >> 16 | 0x40u;
  const Words is_nan = reinterpret_cast<Words>((bits & 0x7fffffffu) > 0x7f800000u);
  const HalfWords half = narrow((is_nan & quiet) | (~is_nan & rounded));
  std::memcpy(target, &half, sizeof half);
}
inline void store(Float16* target, Floats values) {
  store_float16(target, values);
}

// The lowest byte of each lane as a signed number.
inline Floats low_bytes_as_int8(Words words) {
  return __builtin_convertvector(reinterpret_cast<SignedWords>(words << 24) >> 24, Floats);
}

// target[0, count) = source[0, count), with rounding where the type is narrower.
template <class Target, class Source>
inline void convert(Target* target, const Source* source, int64_t count) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(target + i, load(source + i));
  for (; i < count; ++i) target[i] = from_float<Target>(to_float(source[i]));
}
