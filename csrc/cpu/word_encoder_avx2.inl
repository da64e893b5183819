// Codes from words (word_units.inl), whose upper and lower bytes are 32 to a vector.
//
// A word's upper four bits say how many thresholds lie below all words that share them. Of the two
// at most that lie among these the first is compared by upper bytes, the next by both.

inline __m256i words_of(__m256i first, __m256i second) {
  return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xAA);
}

// Words of TOGETHER values. Bytes of them, even ones of the first vector and odd ones of the
// second, come into order by `places`, but for the halves, which have RUN values in turn.
template <class Element>
struct WordsOf {
  static constexpr int RUN = 4;
  __m256i words[2];

  WordsOf(const Element* values, Floats factor) {
    const auto at = [&](int i) {
      return reinterpret_cast<__m256i>(whole(load(values + i * LANES), factor));
    };
    words[0] = words_of(at(0), at(2));
    words[1] = words_of(at(1), at(3));
  }
  static __m128i places() {
    return _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  }
};

// A pair of them is a lane, and each becomes a float without being moved to another.
template <>
struct WordsOf<BFloat16> {
  static constexpr int RUN = 8;
  __m256i words[2];

  WordsOf(const BFloat16* values, Floats factor) {
    const auto words_at = [&](__m256i bits) {
      return reinterpret_cast<__m256i>(whole(reinterpret_cast<Floats>(bits), factor));
    };
    __m256i even[2], odd[2];
    for (int i = 0; i < 2; ++i) {
      const __m256i pairs =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 2 * i * LANES));
      even[i] = words_at(_mm256_slli_epi32(pairs, 16));
      odd[i] = words_at(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
    }
    words[0] = words_of(even[0], even[1]);
    words[1] = words_of(odd[0], odd[1]);
  }
  static __m128i places() {
    return _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  }
};

class WordEncoder {
 public:
  explicit WordEncoder(const Codebook& book) : units(units_for(book.thresholds)) {
    is_able = units != 0;
    int8_t below[NUM_CODES] = {}, upper[NUM_CODES], lower[NUM_CODES];
    int among[NUM_CODES] = {};
    for (int i = 0; i < NUM_CODES; ++i) {
      const bool is_last = i + 1 == NUM_CODES;
      const long word = is_last ? INT16_MAX : std::lrint(book.thresholds[i] * units);
      upper[i] = static_cast<int8_t>(word >> 8);
      lower[i] = static_cast<int8_t>((word & 0xff) - 128);
      is_able &= i == 0 || upper[i] != upper[i - 1];
      if (is_last) break;
      const int upper_bits = upper[i] >> 4;
      is_able &= ++among[upper_bits & 15] <= 2;
      for (int later = upper_bits + 1; later < 8; ++later) ++below[later & 15];
    }
    tables = {in_both_halves(below), in_both_halves(upper), in_both_halves(lower),
              in_both_halves(book.order)};
  }

  // Codes of whole blocks, two a byte, those by floats where words do not say. Returns the number
  // of blocks, which is 0 for codebooks that have no such tables.
  template <class Run, class ByFloats>
  int64_t operator()(const Run& run, uint8_t* packed, const ByFloats& by_floats) const {
    if (!is_able) return 0;
    const WordEncoder copy = *this;  // in registers: it is no part of what stores of bytes change
    const int shift = std::countr_zero(static_cast<uint64_t>(run.block_size));
    const int64_t count = run.num_whole() << shift;
    for (int64_t i = 0; i < count; i += TOGETHER) {
      const float factor = run.factor[i >> shift], scaled = factor * copy.units;
      const WordsOf words(run.values + i, broadcast(scaled));
      if (!copy.encode(words, packed + i / 2) || scaled > MOST_SCALED) [[unlikely]] {
        by_floats(run.values + i, TOGETHER, factor, packed + i / 2);
      }
      run.prefetch_next(i, TOGETHER);
    }
    return run.num_whole();
  }

 private:
  struct Tables {
    __m256i below, upper, lower, code;
  };
  Tables tables{};
  float units;
  bool is_able = false;

  template <class Byte>
  static __m256i in_both_halves(const Byte (&bytes)[NUM_CODES]) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }

  // Whether the codes are those of all values.
  template <class Element>
  bool encode(const WordsOf<Element>& of, uint8_t* packed) const {
    const __m256i odd = _mm256_set1_epi16(-0x100), sign = _mm256_set1_epi8(-128);
    const __m256i upper = _mm256_blendv_epi8(_mm256_srli_epi16(of.words[0], 8), of.words[1], odd);
    // Without a sign, but compared as if they had one.
    const __m256i lower = _mm256_xor_si256(
        _mm256_blendv_epi8(of.words[0], _mm256_slli_epi16(of.words[1], 8), odd), sign);
    const auto next = [&](__m256i table, __m256i rank) { return _mm256_shuffle_epi8(table, rank); };

    __m256i rank = _mm256_shuffle_epi8(
        tables.below, _mm256_and_si256(_mm256_srli_epi16(upper, 4), _mm256_set1_epi8(15)));
    rank = _mm256_sub_epi8(rank, _mm256_cmpgt_epi8(upper, next(tables.upper, rank)));
    const __m256i next_upper = next(tables.upper, rank), next_lower = next(tables.lower, rank);
    const __m256i carried = _mm256_sub_epi8(upper, _mm256_cmpgt_epi8(lower, next_lower));
    rank = _mm256_sub_epi8(rank, _mm256_cmpgt_epi8(carried, next_upper));
    store<WordsOf<Element>>(_mm256_shuffle_epi8(tables.code, rank), packed);

    const __m256i is_threshold = _mm256_and_si256(_mm256_cmpeq_epi8(upper, next_upper),
                                                  _mm256_cmpeq_epi8(lower, next_lower));
    return _mm256_movemask_epi8(is_threshold) == 0;
  }

  template <class Order>
  static void store(__m256i codes, uint8_t* packed) {
    const __m256i places = _mm256_broadcastsi128_si256(Order::places());
    const __m256i first_is_high = _mm256_set1_epi16(0x0110);  // 16 times the first, and the second
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_shuffle_epi8(codes, places), first_is_high);
    const __m256i bytes = _mm256_packus_epi16(pairs, pairs);
    const __m128i lower = _mm256_castsi256_si128(bytes), upper = _mm256_extracti128_si256(bytes, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), Order::RUN == 8
                                                             ? _mm_unpacklo_epi32(lower, upper)
                                                             : _mm_unpacklo_epi16(lower, upper));
  }
};
