// Vectors of AVX2 + FMA + F16C: what differs between instruction sets, and nothing else.

constexpr int LANES = 8;
constexpr int64_t TILE_ROWS = 6, DEPTH = 384, LEFT_AHEAD = 0, IN_PLACE = 0;  // of matmuls

using Floats = float __attribute__((vector_size(32)));
using Words = uint32_t __attribute__((vector_size(32)));
using SignedWords = int32_t __attribute__((vector_size(32)));
using HalfWords = uint16_t __attribute__((vector_size(16)));

inline Floats broadcast(float value) {
  return _mm256_set1_ps(value);
}
inline Words broadcast_word(uint32_t value) {
  return reinterpret_cast<Words>(_mm256_set1_epi32(static_cast<int>(value)));
}

inline Floats fused_multiply_add(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}

// a * b + c, rounded once on every instruction set.
inline Floats multiply_add_exactly(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Floats square_root(Floats values) {
  return _mm256_sqrt_ps(values);
}

// root / divisor.
struct RootDivisor {
  float divisor;

  explicit RootDivisor(float value) : divisor(value) {}

  Floats operator()(Floats root) const { return root / divisor; }
};

// Lane i holds table[index[i]]; of bytes in memory single loads are faster than a gather.
inline Floats look_up(const float* table, const uint8_t* index) {
  return Floats{table[index[0]], table[index[1]], table[index[2]], table[index[3]],
                table[index[4]], table[index[5]], table[index[6]], table[index[7]]};
}

// Eight floats that are looked up by the low three bits of each lane; the other bits are ignored.
struct Table8 {
  Floats values;

  explicit Table8(const float* source) : values(_mm256_loadu_ps(source)) {}

  Floats operator[](Words index) const {
    return _mm256_permutevar8x32_ps(values, reinterpret_cast<__m256i>(index));
  }
};

inline Words shift_left(Words values, Words counts) {
  return reinterpret_cast<Words>(
      _mm256_sllv_epi32(reinterpret_cast<__m256i>(values), reinterpret_cast<__m256i>(counts)));
}

// max(upper 16 bits - least, 0) * factor / 2^16 of each lane.
inline Words scaled_upper_half(Words values, uint16_t least, uint16_t factor) {
  const __m256i leasts = _mm256_set1_epi32(static_cast<int>(uint32_t{least} << 16));
  const __m256i factors = _mm256_set1_epi32(static_cast<int>(uint32_t{factor} << 16));
  const __m256i above = _mm256_subs_epu16(reinterpret_cast<__m256i>(values), leasts);
  return reinterpret_cast<Words>(_mm256_mulhi_epu16(above, factors)) >> 16;
}

// Lanes below 2^16, and below 2^8, in fewer bits.
inline HalfWords narrow(Words values) {
  const __m256i lanes = reinterpret_cast<__m256i>(values);
  return reinterpret_cast<HalfWords>(
      _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1)));
}
// The upper halves of the lanes of both, in order.
inline void store_upper_halves(void* target, Words first, Words second) {
  const __m256i halves = _mm256_packus_epi32(reinterpret_cast<__m256i>(first >> 16),
                                             reinterpret_cast<__m256i>(second >> 16));
  const __m256i in_order = _mm256_permute4x64_epi64(halves, _MM_SHUFFLE(3, 1, 2, 0));
  _mm256_storeu_si256(static_cast<__m256i*>(target), in_order);
}
inline Words widen(HalfWords values) {
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(values)));
}
inline void store_bytes(uint8_t* target, Words values) {
  const __m128i halves = reinterpret_cast<__m128i>(narrow(values));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(target), _mm_packus_epi16(halves, halves));
}

// Bytes [0, 32) of four packed vectors, which packing has left in halves.
inline __m256i in_order(__m256i packed) {
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

inline void store_bytes(uint8_t* target, const Words (&values)[4]) {
  const auto lanes = [&](int i) { return reinterpret_cast<__m256i>(values[i]); };
  const __m256i low = _mm256_packus_epi32(lanes(0), lanes(1));
  const __m256i high = _mm256_packus_epi32(lanes(2), lanes(3));
  const __m256i bytes = in_order(_mm256_packus_epi16(low, high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), bytes);
}

// A byte per lane: negative, zero or positive as the lane is.
inline __m256i signs_of(const Floats (&values)[4]) {
  const auto lanes = [&](int i) { return reinterpret_cast<__m256i>(values[i]); };
  return _mm256_packs_epi16(_mm256_packs_epi32(lanes(0), lanes(1)),
                            _mm256_packs_epi32(lanes(2), lanes(3)));
}

// The upper halves of four vectors as two.
inline void upper_halves(const Words (&words)[4], __m256i& low, __m256i& high) {
  const auto lanes = [&](int i) { return reinterpret_cast<__m256i>(words[i] >> 16); };
  low = _mm256_packus_epi32(lanes(0), lanes(1));
  high = _mm256_packus_epi32(lanes(2), lanes(3));
}

// code = 127 + place, or 127 - place but at least 0 of a negative value; a place is a lane's upper
// half.
inline void store_signed_codes(uint8_t* target, const Words (&places)[4],
                               const Floats (&values)[4]) {
  __m256i low, high;
  upper_halves(places, low, high);
  const __m256i place = _mm256_packus_epi16(low, high), zero = _mm256_set1_epi8(127);
  const __m256i codes = _mm256_blendv_epi8(_mm256_add_epi8(zero, place),
                                           _mm256_subs_epu8(zero, place), signs_of(values));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), in_order(codes));
}

// code = place - 1 but at least 1 of a value above zero, 0 of zero.
inline void store_unsigned_codes(uint8_t* target, const Words (&places)[4],
                                 const Floats (&values)[4]) {
  __m256i low, high;
  upper_halves(places, low, high);
  const __m256i one = _mm256_set1_epi16(1);
  const __m256i codes =
      _mm256_packus_epi16(_mm256_sub_epi16(low, one), _mm256_sub_epi16(high, one));
  const __m256i at_least_one = _mm256_max_epu8(codes, _mm256_set1_epi8(1));
  const __m256i with_zeros = _mm256_sign_epi8(at_least_one, signs_of(values));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), in_order(with_zeros));
}

// Whether a lane's lower half is within `near` of 0 or of 2^16.
inline bool any_near_whole(const Words (&words)[4], uint32_t near) {
  const auto lanes = [&](int i) { return reinterpret_cast<__m256i>(words[i]); };
  const auto lower_halves = [&](int i) {
    const __m256i odd = _mm256_slli_epi32(lanes(i + 1), 16);
    return _mm256_add_epi16(_mm256_blend_epi16(lanes(i), odd, 0xAA),
                            _mm256_set1_epi16(static_cast<int16_t>(near)));
  };
  const __m256i least = _mm256_min_epu16(lower_halves(0), lower_halves(2));
  const __m256i far = _mm256_set1_epi16(static_cast<int16_t>(2 * near));
  return _mm256_movemask_epi8(_mm256_cmpeq_epi16(_mm256_max_epu16(least, far), least)) != -1;
}

inline uint32_t largest_lane(Words values) {
  const __m256i lanes = reinterpret_cast<__m256i>(values);
  __m128i most = _mm_max_epu32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  most = _mm_max_epu32(most, _mm_unpackhi_epi64(most, most));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(most));
}

// Lane i holds the largest lane of values[i].
inline Words largest_lanes(const Words (&values)[LANES]) {
  Words largest;
  for (int i = 0; i < LANES; ++i) largest[i] = largest_lane(values[i]);
  return largest;
}

inline float sum_of_lanes(Floats values) {
  __m128 sums = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
  return _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
}

inline Floats load_float16(const Float16* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}
inline void store_float16(Float16* target, Floats values) {
  const __m128i half = _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), half);
}

// The low and high words of each lane's 64-bit product with one factor.
inline void multiply_wide(Words values, uint32_t factor, Words& low, Words& high) {
  const __m256i lanes = reinterpret_cast<__m256i>(values);
  const __m256i factors = _mm256_set1_epi32(static_cast<int>(factor));
  const __m256i even = _mm256_mul_epu32(lanes, factors);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(lanes, 32), factors);
  low = reinterpret_cast<Words>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA));
  high = reinterpret_cast<Words>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA));
}

// Sixteen floats that are looked up by the low four bits of each lane; the other bits are ignored.
struct Table16 {
  Floats low, high;

  explicit Table16(const float* values)
      : low(_mm256_loadu_ps(values)), high(_mm256_loadu_ps(values + 8)) {}

  Floats operator[](Words index) const {
    const __m256i lanes = reinterpret_cast<__m256i>(index);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, lanes),
                            _mm256_permutevar8x32_ps(high, lanes),
                            reinterpret_cast<__m256>(index << 28));
  }
};

// Lane i holds the code of the i-th of LANES consecutive values in its low four bits.
inline Words consecutive_nibbles(const uint8_t* codes) {
  int word;
  std::memcpy(&word, codes, sizeof word);
  const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
  return reinterpret_cast<Words>(_mm256_srlv_epi32(_mm256_set1_epi32(word), shifts));
}

inline Floats consecutive_int8(const int8_t* codes) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

// Lane i holds the four bytes at sources[i] + offset.
inline Words gather_words(const uint8_t* const* sources, int64_t offset) {
  int words[LANES];
  for (int i = 0; i < LANES; ++i) std::memcpy(&words[i], sources[i] + offset, sizeof words[i]);
  return reinterpret_cast<Words>(_mm256_setr_epi32(words[0], words[1], words[2], words[3], words[4],
                                                   words[5], words[6], words[7]));
}

// Lane i of words[w] holds word w of the sixteen bytes at source_of(i).
template <class SourceOf>
inline void gather_words(const SourceOf& source_of, Words (&words)[4]) {
  const uint8_t* sources[LANES];
  for (int i = 0; i < LANES; ++i) sources[i] = source_of(i);
  for (int w = 0; w < 4; ++w) words[w] = gather_words(sources, 4 * w);
}

// The codes of four vectors of ranks, two a byte.
struct RankPacker {
  __m256i code_of;  // by rank, in both halves

  explicit RankPacker(const uint8_t (&order)[NUM_CODES])
      : code_of(
            _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(order)))) {
  }

  void operator()(uint8_t* packed, const Words (&ranks)[4]) const {
    const auto lanes = [&](int i) { return reinterpret_cast<__m256i>(ranks[i]); };
    const __m256i low = _mm256_packus_epi32(lanes(0), lanes(1));
    const __m256i high = _mm256_packus_epi32(lanes(2), lanes(3));
    const __m256i codes = _mm256_shuffle_epi8(code_of, _mm256_packus_epi16(low, high));
    const __m256i first_is_high = _mm256_set1_epi16(0x0110);  // 16 times the first, and the second
    const __m256i pairs = _mm256_maddubs_epi16(codes, first_is_high);
    // Packing has left the halves of the four vectors in the halves of this one.
    const __m128i lower = _mm256_castsi256_si128(pairs), upper = _mm256_extracti128_si256(pairs, 1);
    const __m128i bytes =
        _mm_packus_epi16(_mm_unpacklo_epi32(lower, upper), _mm_unpackhi_epi32(lower, upper));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), bytes);
  }
};

// The number of thresholds below each scaled value: fifteen sorted ones are searched as a complete
// binary tree. Which of the two on its second level is blended, on the others it is looked up.
struct Ranker {
  Floats first, second[2], third, fourth;

  explicit Ranker(const float* thresholds)
      : first(broadcast(thresholds[7])),
        second{broadcast(thresholds[3]), broadcast(thresholds[11])} {
    for (int i = 0; i < LANES; ++i) {
      third[i] = thresholds[4 * (i & 3) + 1];
      fourth[i] = thresholds[2 * i];
    }
  }

  Words operator()(Floats scaled) const {
    const auto is_above = [&](Floats threshold) {
      return reinterpret_cast<Words>(scaled > threshold);  // All ones: minus one.
    };
    const Words half = is_above(first);
    const Words quarter =
        is_above(_mm256_blendv_ps(second[0], second[1], reinterpret_cast<__m256>(half)));
    Words rank = (half & 2u) - quarter;
    const auto lanes = [&] { return reinterpret_cast<__m256i>(rank); };
    rank = rank + rank - is_above(_mm256_permutevar_ps(third, lanes()));
    return rank + rank - is_above(_mm256_permutevar8x32_ps(fourth, lanes()));
  }
};
