// What every instruction set's vectors share: loads and stores of each element type.

// Values that take each step side by side where a step waits for the one before it: a processor
// does not look far enough ahead to find the next vectors itself.
constexpr int64_t TOGETHER = 4 * LANES;

inline Floats zeros() {
  return broadcast(0.0f);
}

// Magnitudes of floats compare like the integers that their bits are.
inline Words magnitude(Floats values) {
  return reinterpret_cast<Words>(values) & 0x7fffffffu;
}
inline Words larger(Words a, Words b) {
  return a > b ? a : b;
}

inline Floats load(const float* source) {
  Floats values;
  std::memcpy(&values, source, sizeof values);
  return values;
}
inline Floats load(const BFloat16* source) {
  HalfWords half;
  std::memcpy(&half, source, sizeof half);
  return reinterpret_cast<Floats>(widen(half) << 16);
}
inline Floats load(const Float16* source) {
  return load_float16(source);
}

inline void store(float* target, Floats values) {
  std::memcpy(target, &values, sizeof values);
}
// Upper halves that are the values as bf16; the lower ones are of no use.
inline Words rounded_to_upper_half(Floats values) {
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = bits + 0x7fffu + (bits >> 16 & 1u), quiet = bits | 0x400000u;
  return values != values ? quiet : rounded;
}
inline void store(BFloat16* target, Floats values) {
  const HalfWords half = narrow(rounded_to_upper_half(values) >> 16);
  std::memcpy(target, &half, sizeof half);
}
inline void store(Float16* target, Floats values) {
  store_float16(target, values);
}

// Two vectors side by side.
template <class Element>
inline void store(Element* target, Floats first, Floats second) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    store_upper_halves(target, rounded_to_upper_half(first), rounded_to_upper_half(second));
  } else {
    store(target, first);
    store(target + LANES, second);
  }
}

// The lowest byte of each lane as a signed number.
inline Floats low_bytes_as_int8(Words words) {
  return __builtin_convertvector(reinterpret_cast<SignedWords>(words << 24) >> 24, Floats);
}

// target[0, count) = source[0, count), with rounding where the type is narrower.
template <class Target, class Source>
inline void convert(Target* target, const Source* source, int64_t count) {
  int64_t i = 0;
  for (; i + 2 * LANES <= count; i += 2 * LANES) {
    store(target + i, load(source + i), load(source + i + LANES));
  }
  for (; i + LANES <= count; i += LANES) store(target + i, load(source + i));
  for (; i < count; ++i) target[i] = from_float<Target>(to_float(source[i]));
}

// The same pointer, of which the compiler does not know that.
inline const float* unknown(const float* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

constexpr int64_t LINE = 64;  // bytes of a cache line

// Asks for lines that the prefetchers of the hardware miss: they stop at the end of a page. What is
// read only after much else has passed through L1 is asked for in L2.
constexpr int IN_L1 = 3, IN_L2 = 2;
template <int WHERE = IN_L1>
inline void prefetch(const void* data, int64_t num_bytes) {
  const auto* bytes = static_cast<const char*>(data);
  for (int64_t i = 0; i < num_bytes; i += LINE) __builtin_prefetch(bytes + i, 0, WHERE);
}

// Asks for the line of values[i], once for all vectors of a line. A core has room for some sixteen
// lines on their way and waits where it asks for more, so that this stands between other work.
template <class Value>
inline void prefetch_line(const Value* values, int64_t i) {
  constexpr int64_t A_LINE = LINE / static_cast<int64_t>(sizeof(Value));
  if (i % A_LINE < LANES) __builtin_prefetch(values + i);
}

// How far ahead of what an update reads its lines are asked for.
constexpr int64_t STATES_AHEAD = 2 * STATE_BLOCK;

// The codes of a block, in whole vectors of so many: where the last is short, a copy with zeros.
template <int64_t WIDTH>
inline const uint8_t* padded_codes(const uint8_t* codes, int64_t count, uint8_t zero,
                                   uint8_t (&padded)[STATE_BLOCK]) {
  if (count % WIDTH == 0) return codes;
  std::fill(std::copy(codes, codes + count, padded), padded + STATE_BLOCK, zero);
  return padded;
}
