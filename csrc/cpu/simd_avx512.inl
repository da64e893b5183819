// Vectors of AVX-512 (F, BW, DQ, VL): what differs between instruction sets, and nothing else.

constexpr int LANES = 16;
constexpr int64_t TILE_ROWS = 12, DEPTH = 192, LEFT_AHEAD = 512, IN_PLACE = 2;  // of matmuls

using Floats = float __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using SignedWords = int32_t __attribute__((vector_size(64)));
using HalfWords = uint16_t __attribute__((vector_size(32)));
using Halves = uint16_t __attribute__((vector_size(64)));

inline Floats broadcast(float value) {
  return _mm512_set1_ps(value);
}
inline Words broadcast_word(uint32_t value) {
  return reinterpret_cast<Words>(_mm512_set1_epi32(static_cast<int>(value)));
}

inline Floats fused_multiply_add(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}

// a * b + c, rounded once on every instruction set.
inline Floats multiply_add_exactly(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Floats square_root(Floats values) {
  return _mm512_sqrt_ps(values);
}

// root / divisor, rounded once, of a root or infinity and of a divisor between 2^-27 and 2, or of
// zero. By products, since the divider is what an update waits for: the first quotient is less than
// two units off in its last place, the second is one of the two floats around the exact one, and
// from there on a correction by the rounded inverse gives the nearest (Markstein 1990). No rest is
// denormal, because a root is above 2^-75.
struct RootDivisor {
  Floats divisor, inverse, bound;  // an infinite quotient has no rest

  explicit RootDivisor(float value)
      : divisor(broadcast(value)),
        inverse(broadcast(1.0f / value)),
        bound(broadcast(value > 0.0f ? HUGE_VALF : 0.0f)) {}

  Floats operator()(Floats root) const {
    const __mmask16 is_finite = _mm512_cmp_ps_mask(root, bound, _CMP_LT_OQ);
    Floats quotient = root * inverse;
    for (int i = 0; i < 2; ++i) {
      const Floats rest = _mm512_fnmadd_ps(quotient, divisor, root);
      quotient = _mm512_mask3_fmadd_ps(rest, inverse, quotient, is_finite);
    }
    return quotient;
  }
};

// Lane i holds table[index[i]].
inline Floats look_up(const float* table, const uint8_t* index) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(index));
  return _mm512_i32gather_ps(_mm512_cvtepu8_epi32(bytes), table, sizeof(float));
}

// Sixteen floats that are looked up by the low four bits of each lane; the other bits are ignored.
struct Table16 {
  Floats values;

  explicit Table16(const float* source) : values(_mm512_loadu_ps(source)) {}

  Floats operator[](Words index) const {
    return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), values);
  }
};

// Lanes below 2^16, and below 2^8, in fewer bits.
inline HalfWords narrow(Words values) {
  return reinterpret_cast<HalfWords>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(values)));
}
inline Words widen(HalfWords values) {
  return __builtin_convertvector(values, Words);
}
// The upper halves of the lanes of both, in order.
inline void store_upper_halves(void* target, Words first, Words second) {
  const __m512i upper =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                       25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  _mm512_storeu_si512(target, _mm512_permutex2var_epi16(reinterpret_cast<__m512i>(first), upper,
                                                        reinterpret_cast<__m512i>(second)));
}
inline void store_bytes(uint8_t* target, Words values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                   _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(values)));
}

inline void store_bytes(uint8_t* target, const Words (&values)[4]) {
  for (int i = 0; i < 4; ++i) store_bytes(target + i * LANES, values[i]);
}

inline uint32_t largest_lane(Words values) {
  return _mm512_reduce_max_epu32(reinterpret_cast<__m512i>(values));
}

// Lane i holds the largest lane of values[i]: each step joins two vectors, halves of which are
// left.
inline Words largest_lanes(const Words (&values)[LANES]) {
  __m512i rows[LANES];
  std::memcpy(rows, values, sizeof rows);
  const auto larger_of = [&](__m512i a, __m512i b) {
    const Words left = reinterpret_cast<Words>(a), right = reinterpret_cast<Words>(b);
    return reinterpret_cast<__m512i>(left > right ? left : right);
  };
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i += i % 4 == 3 ? 5 : 1) {
    rows[i] = larger_of(_mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x44),
                        _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = larger_of(_mm512_shuffle_i32x4(rows[i], rows[8 + i], 0x88),
                        _mm512_shuffle_i32x4(rows[i], rows[8 + i], 0xdd));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 4; i += 2) {
    rows[i] = larger_of(_mm512_unpacklo_epi64(rows[i], rows[i + 1]),
                        _mm512_unpackhi_epi64(rows[i], rows[i + 1]));
  }
  const __m512 first = reinterpret_cast<__m512>(rows[0]), last = reinterpret_cast<__m512>(rows[2]);
  const __m512 even = _mm512_shuffle_ps(first, last, 0x88),
               odd = _mm512_shuffle_ps(first, last, 0xdd);
  return reinterpret_cast<Words>(
      larger_of(reinterpret_cast<__m512i>(even), reinterpret_cast<__m512i>(odd)));
}

inline float sum_of_lanes(Floats values) {
  return _mm512_reduce_add_ps(values);
}

inline Floats load_float16(const Float16* source) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}
inline void store_float16(Float16* target, Floats values) {
  const __m256i half = _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), half);
}

// The low and high words of each lane's 64-bit product with one factor.
inline void multiply_wide(Words values, uint32_t factor, Words& low, Words& high) {
  const __m512i lanes = reinterpret_cast<__m512i>(values);
  const __m512i factors = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(lanes, factors);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(lanes, 32), factors);
  const __mmask16 odd_lanes = 0xAAAA;
  low =
      reinterpret_cast<Words>(_mm512_mask_blend_epi32(odd_lanes, even, _mm512_slli_epi64(odd, 32)));
  high =
      reinterpret_cast<Words>(_mm512_mask_blend_epi32(odd_lanes, _mm512_srli_epi64(even, 32), odd));
}

// Lane i holds the code of the i-th of LANES consecutive values in its low four bits.
inline Words consecutive_nibbles(const uint8_t* codes) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  const __m512i word_of = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m512i words = _mm512_permutexvar_epi32(word_of, _mm512_castsi128_si512(bytes));
  const __m512i shifts =
      _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
  return reinterpret_cast<Words>(_mm512_srlv_epi32(words, shifts));
}

inline Floats consecutive_int8(const int8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

// Lane i holds the four bytes at sources[i] + offset.
inline Words gather_words(const uint8_t* const* sources, int64_t offset) {
  Words words;
  for (int i = 0; i < LANES; ++i) {
    uint32_t word;
    std::memcpy(&word, sources[i] + offset, sizeof word);
    words[i] = word;
  }
  return words;
}

// Lane i of words[w] holds word w of the sixteen bytes at source_of(i).
template <class SourceOf>
inline void gather_words(const SourceOf& source_of, Words (&words)[4]) {
  __m512i rows[4];  // i, 4 + i, 8 + i, 12 + i
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto bytes = [&](int row) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source_of(row)));
    };
    rows[i] = _mm512_inserti32x4(_mm512_castsi128_si512(bytes(i)), bytes(4 + i), 1);
    rows[i] = _mm512_inserti32x4(rows[i], bytes(8 + i), 2);
    rows[i] = _mm512_inserti32x4(rows[i], bytes(12 + i), 3);
  }
  const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
  words[0] = reinterpret_cast<Words>(_mm512_unpacklo_epi64(low01, low23));
  words[1] = reinterpret_cast<Words>(_mm512_unpackhi_epi64(low01, low23));
  words[2] = reinterpret_cast<Words>(_mm512_unpacklo_epi64(high01, high23));
  words[3] = reinterpret_cast<Words>(_mm512_unpackhi_epi64(high01, high23));
}

// The first index with a value larger than the scaled one: fifteen sorted thresholds are searched
// as a complete binary tree, level by level; each level is one register.
struct Ranker {
  Floats level[4];

  explicit Ranker(const float* thresholds) {
    for (int depth = 0; depth < 4; ++depth) {
      for (int i = 0; i < LANES; ++i) {
        const int node = i & ((1 << depth) - 1);
        level[depth][i] = thresholds[(2 * node + 1) * (8 >> depth) - 1];
      }
    }
  }

  Words operator()(Floats scaled) const {
    Words rank = broadcast_word(0);
    for (int depth = 0; depth < 4; ++depth) {
      const Floats threshold = _mm512_permutexvar_ps(reinterpret_cast<__m512i>(rank), level[depth]);
      const Words above = reinterpret_cast<Words>(scaled > threshold);  // All ones: minus one.
      rank = rank + rank - above;
    }
    return rank;
  }
};

// The codes of four vectors of ranks, two a byte.
struct RankPacker {
  __m512i code_of;  // by rank

  explicit RankPacker(const uint8_t (&order)[NUM_CODES])
      : code_of(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(order)))) {}

  void operator()(uint8_t* packed, const Words (&ranks)[4]) const {
    for (int i = 0; i < 4; ++i) {
      const __m512i codes = _mm512_permutexvar_epi32(reinterpret_cast<__m512i>(ranks[i]), code_of);
      const __m512i seconds = _mm512_srli_epi64(codes, 32);
      const Words pairs = reinterpret_cast<Words>(codes) << 4 | reinterpret_cast<Words>(seconds);
      const __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(pairs));
      const __m128i even = _mm_and_si128(bytes, _mm_set1_epi16(0xff));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(packed + i * LANES / 2),
                       _mm_packus_epi16(even, even));
    }
  }
};
