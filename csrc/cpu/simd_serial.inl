// Vectors that any x86-64 (or other) machine has: four lanes, no fused multiply-add.

constexpr int LANES = 4;
constexpr int64_t TILE_ROWS = 6, DEPTH = 384, LEFT_AHEAD = 0, IN_PLACE = 0;  // of matmuls

using Floats = float __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));
using SignedWords = int32_t __attribute__((vector_size(16)));
using HalfWords = uint16_t __attribute__((vector_size(8)));

inline Floats broadcast(float value) {
  return Floats{value, value, value, value};
}
inline Words broadcast_word(uint32_t value) {
  return Words{value, value, value, value};
}

inline Floats fused_multiply_add(Floats a, Floats b, Floats c) {
  return a * b + c;
}

// a * b + c, rounded once on every instruction set.
inline Floats multiply_add_exactly(Floats a, Floats b, Floats c) {
  return Floats{std::fma(a[0], b[0], c[0]), std::fma(a[1], b[1], c[1]), std::fma(a[2], b[2], c[2]),
                std::fma(a[3], b[3], c[3])};
}
inline Floats square_root(Floats values) {
  return Floats{std::sqrt(values[0]), std::sqrt(values[1]), std::sqrt(values[2]),
                std::sqrt(values[3])};
}

// root / divisor.
struct RootDivisor {
  float divisor;

  explicit RootDivisor(float value) : divisor(value) {}

  Floats operator()(Floats root) const { return root / divisor; }
};

// Lane i holds table[index[i]].
inline Floats look_up(const float* table, const uint8_t* index) {
  return Floats{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
}

// Eight floats that are looked up by the low three bits of each lane; the other bits are ignored.
struct Table8 {
  const float* values;

  explicit Table8(const float* source) : values(source) {}

  Floats operator[](Words index) const {
    return Floats{values[index[0] & 7], values[index[1] & 7], values[index[2] & 7],
                  values[index[3] & 7]};
  }
};

inline Words shift_left(Words values, Words counts) {
  return values << counts;
}

// max(upper 16 bits - least, 0) * factor / 2^16 of each lane.
inline Words scaled_upper_half(Words values, uint16_t least, uint16_t factor) {
  const Words upper = values >> 16, floor = broadcast_word(least);
  return ((upper > floor ? upper : floor) - floor) * factor >> 16;
}

// Lanes below 2^16, and below 2^8, in fewer bits.
inline HalfWords narrow(Words values) {
  return __builtin_convertvector(values, HalfWords);
}
// The upper halves of the lanes of both, in order.
inline void store_upper_halves(void* target, Words first, Words second) {
  const HalfWords halves[] = {narrow(first >> 16), narrow(second >> 16)};
  std::memcpy(target, halves, sizeof halves);
}
inline Words widen(HalfWords values) {
  return __builtin_convertvector(values, Words);
}
inline void store_bytes(uint8_t* target, Words values) {
  for (int i = 0; i < LANES; ++i) target[i] = static_cast<uint8_t>(values[i]);
}

inline void store_bytes(uint8_t* target, const Words (&values)[4]) {
  for (int i = 0; i < 4; ++i) store_bytes(target + i * LANES, values[i]);
}

// code = 127 + place, or 127 - place but at least 0 of a negative value; a place is a lane's upper
// half.
inline void store_signed_codes(uint8_t* target, const Words (&places)[4],
                               const Floats (&values)[4]) {
  for (int i = 0; i < 4 * LANES; ++i) {
    const uint32_t place = places[i / LANES][i % LANES] >> 16;
    const bool is_negative = values[i / LANES][i % LANES] < 0.0f;
    target[i] = static_cast<uint8_t>(is_negative ? 127 - std::min(place, 127u) : 127 + place);
  }
}

// code = place - 1 but at least 1 of a value above zero, 0 of zero.
inline void store_unsigned_codes(uint8_t* target, const Words (&places)[4],
                                 const Floats (&values)[4]) {
  for (int i = 0; i < 4 * LANES; ++i) {
    const uint32_t place = places[i / LANES][i % LANES] >> 16;
    const bool is_zero = values[i / LANES][i % LANES] == 0.0f;
    target[i] = static_cast<uint8_t>(is_zero ? 0 : std::max(place - 1, 1u));
  }
}

// Whether a lane's lower half is within `near` of 0 or of 2^16.
inline bool any_near_whole(const Words (&words)[4], uint32_t near) {
  bool found = false;
  for (int i = 0; i < 4 * LANES; ++i) {
    found |= ((words[i / LANES][i % LANES] + near) & 0xffffu) < 2 * near;
  }
  return found;
}

inline uint32_t largest_lane(Words values) {
  return std::max(std::max(values[0], values[1]), std::max(values[2], values[3]));
}

// Lane i holds the largest lane of values[i].
inline Words largest_lanes(const Words (&values)[LANES]) {
  Words largest;
  for (int i = 0; i < LANES; ++i) largest[i] = largest_lane(values[i]);
  return largest;
}

inline float sum_of_lanes(Floats values) {
  return (values[0] + values[2]) + (values[1] + values[3]);
}

inline Floats load_float16(const Float16* source) {
  return Floats{to_float(source[0]), to_float(source[1]), to_float(source[2]), to_float(source[3])};
}
inline void store_float16(Float16* target, Floats values) {
  for (int i = 0; i < LANES; ++i) target[i] = from_float<Float16>(values[i]);
}

// The low and high words of each lane's 64-bit product with one factor.
inline void multiply_wide(Words values, uint32_t factor, Words& low, Words& high) {
  uint32_t lanes[LANES], lows[LANES], highs[LANES];
  std::memcpy(lanes, &values, sizeof lanes);
  for (int i = 0; i < LANES; ++i) {
    const uint64_t product = uint64_t{lanes[i]} * factor;
    lows[i] = static_cast<uint32_t>(product);
    highs[i] = static_cast<uint32_t>(product >> 32);
  }
  std::memcpy(&low, lows, sizeof low);
  std::memcpy(&high, highs, sizeof high);
}

// Sixteen floats that are looked up by the low four bits of each lane; the other bits are ignored.
struct Table16 {
  const float* values;

  explicit Table16(const float* table) : values(table) {}

  Floats operator[](Words index) const {
    return Floats{values[index[0] & 15], values[index[1] & 15], values[index[2] & 15],
                  values[index[3] & 15]};
  }
};

// Lane i holds the code of the i-th of LANES consecutive values in its low four bits.
inline Words consecutive_nibbles(const uint8_t* codes) {
  const uint32_t first = codes[0], second = codes[1];
  return Words{first >> 4, first, second >> 4, second};
}

inline Floats consecutive_int8(const int8_t* codes) {
  return Floats{static_cast<float>(codes[0]), static_cast<float>(codes[1]),
                static_cast<float>(codes[2]), static_cast<float>(codes[3])};
}

// Lane i holds the four bytes at sources[i] + offset.
inline Words gather_words(const uint8_t* const* sources, int64_t offset) {
  uint32_t words[LANES];
  for (int i = 0; i < LANES; ++i) std::memcpy(&words[i], sources[i] + offset, sizeof words[i]);
  return Words{words[0], words[1], words[2], words[3]};
}

// Lane i of words[w] holds word w of the sixteen bytes at source_of(i).
template <class SourceOf>
inline void gather_words(const SourceOf& source_of, Words (&words)[4]) {
  const uint8_t* sources[LANES];
  for (int i = 0; i < LANES; ++i) sources[i] = source_of(i);
  for (int w = 0; w < 4; ++w) words[w] = gather_words(sources, 4 * w);
}

// The number of thresholds below each scaled value.
struct Ranker {
  const float* thresholds;

  explicit Ranker(const float* sorted) : thresholds(sorted) {}

  Words operator()(Floats scaled) const {
    Words rank = broadcast_word(0);
    for (int i = 0; i + 1 < NUM_CODES; ++i) {
      rank -= reinterpret_cast<Words>(scaled > broadcast(thresholds[i]));  // All ones: minus one.
    }
    return rank;
  }
};

// The codes of four vectors of ranks, two a byte.
struct RankPacker {
  const uint8_t (&order)[NUM_CODES];

  explicit RankPacker(const uint8_t (&codes)[NUM_CODES]) : order(codes) {}

  void operator()(uint8_t* packed, const Words (&ranks)[4]) const {
    for (int i = 0; i < 4 * LANES; i += 2) {
      const Words& vector = ranks[i / LANES];
      packed[i / 2] = pack_nibbles(order[vector[i % LANES]], order[vector[i % LANES + 1]]);
    }
  }
};
