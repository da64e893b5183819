// Codes from words (word_units.inl), 32 to a vector. The upper five bits of a word say what to add
// to it, so that its upper four bits become the rank:
//
//   sum = word + shift[word >> 11],  rank = sum >> 12
//
// A threshold's own word becomes a multiple of 2^12, and no other word that shares its five bits
// does. Where no threshold is among those that share them, none does.

// Where the mask has ones the bits of the first, elsewhere those of the second.
inline __m512i either(__m512i mask, __m512i first, __m512i second) {
  return _mm512_ternarylogic_epi32(mask, first, second, 0xCA);
}
// The lower half of each dword of both.
inline __m512i lower_halves(__m512i first, __m512i second) {
  return either(_mm512_set1_epi32(0xffff), first, _mm512_slli_epi32(second, 16));
}
// The upper four bits of each half of the first, and what lies below them in the second.
inline __m512i nibbles(__m512i first, __m512i second) {
  return either(_mm512_set1_epi16(-0x1000), first, second);
}

// The words of TOGETHER values, each half of which has its factor. From their sums bytes of codes,
// eight in each quarter: `in_quarter` brings them to its lower half, `places` as words into order.
template <class Element>
struct WordsOf {
  __m512i words[2];

  WordsOf(const Element* values, Floats first, Floats second) {
    const auto at = [&](int i, Floats factor) {
      return reinterpret_cast<__m512i>(whole(load(values + i * LANES), factor));
    };
    words[0] = lower_halves(at(0, first), at(1, first));
    words[1] = lower_halves(at(2, second), at(3, second));
  }
  // Neighbours lie in two dwords; their byte comes to the lower of them.
  static __m512i bytes(__m512i first, __m512i second) {
    const __m512i upper_bytes =
        either(_mm512_set1_epi16(0xff), _mm512_srli_epi16(first, 8), second);
    return either(_mm512_set1_epi8(-0x10), upper_bytes, _mm512_srli_epi64(upper_bytes, 36));
  }
  static __m128i in_quarter() {
    return _mm_setr_epi8(0, 8, 2, 10, 1, 9, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0);
  }
  static constexpr Halves places{0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27};
};

// A pair of them is a dword, and each becomes a float without being moved to another.
template <>
struct WordsOf<BFloat16> {
  __m512i words[2];

  WordsOf(const BFloat16* values, Floats first, Floats second) {
    Words pairs[2];
    std::memcpy(pairs, values, sizeof pairs);
    const auto words_at = [&](Words bits, Floats factor) {
      return reinterpret_cast<__m512i>(whole(reinterpret_cast<Floats>(bits), factor));
    };
    words[0] = lower_halves(words_at(pairs[0] << 16, first), words_at(pairs[1] << 16, second));
    words[1] = lower_halves(words_at(pairs[0] & 0xffff0000u, first),
                            words_at(pairs[1] & 0xffff0000u, second));
  }
  static __m512i bytes(__m512i even, __m512i odd) {
    return nibbles(even, _mm512_srli_epi16(odd, 4));
  }
  static __m128i in_quarter() {
    return _mm_setr_epi8(1, 5, 9, 13, 3, 7, 11, 15, 0, 0, 0, 0, 0, 0, 0, 0);
  }
  static constexpr Halves places{0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27};
};

class WordEncoder {
 public:
  explicit WordEncoder(const Codebook& book)
      : units(book.is_sorted ? units_for(book.thresholds) : 0) {
    constexpr long SHARE = 1 << (16 - LOOKED_AT);
    uint16_t shifts[1 << LOOKED_AT];
    for (int i = 0; i < 1 << LOOKED_AT; ++i) {
      const long first = (i < 16 ? i : i - 32) * SHARE;
      int rank = 0;  // thresholds below
      while (rank < NUM_CODES - 1 && word_of(book, rank) < first) ++rank;
      long shift = rank * SUMS_PER_RANK + SUMS_PER_RANK / 4 - first;
      if (rank < NUM_CODES - 1 && word_of(book, rank) < first + SHARE) {
        shift = (rank + 1) * SUMS_PER_RANK - word_of(book, rank);
        // Of two that share bits the second would not be seen.
        const bool is_alone = rank + 1 == NUM_CODES - 1 || word_of(book, rank + 1) >= first + SHARE;
        if (!is_alone) units = 0;
      }
      shifts[i] = static_cast<uint16_t>(shift);
    }
    std::memcpy(&shift_of, shifts, sizeof shift_of);
  }

  // Codes of whole blocks, two a byte, those by floats where words do not say. Returns the number
  // of blocks, which is 0 for codebooks that have no such table.
  template <class Run, class ByFloats>
  int64_t operator()(const Run& run, uint8_t* packed, const ByFloats& by_floats) const {
    if (units == 0) return 0;
    const WordEncoder copy = *this;  // in registers: it is no part of what stores of bytes change
    const int64_t block_size = std::min(run.block_size, TOGETHER), blocks = TOGETHER / block_size;
    float scaled[Run::MOST];
    for (int64_t i = 0; i < Run::MOST; i += LANES) {
      store(scaled + i, load(run.factor + i) * broadcast(copy.units));
    }
    int64_t block = 0;
    for (const auto* values = run.values; block + blocks <= run.num_whole(); block += blocks) {
      const float factors[2] = {scaled[block], scaled[block + blocks - 1]};
      const bool is_large = std::max(factors[0], factors[1]) > MOST_SCALED;
      for (int64_t i = 0; i < run.block_size; i += TOGETHER, values += TOGETHER) {
        const WordsOf words(values, broadcast(factors[0]), broadcast(factors[1]));
        if (!copy.encode(words, packed) || is_large) [[unlikely]] {
          for (int64_t j = 0; j < blocks; ++j) {
            by_floats(values + j * block_size, block_size, run.factor[block + j],
                      packed + j * block_size / 2);
          }
        }
        packed += TOGETHER / 2;
        run.prefetch_next(values - run.values, TOGETHER);
      }
    }
    return block;
  }

 private:
  static constexpr int LOOKED_AT = 5;  // bits of a word
  static constexpr long SUMS_PER_RANK = 1 << 12;

  __m512i shift_of;
  float units;  // or 0

  long word_of(const Codebook& book, int threshold) const {
    return std::lrint(book.thresholds[threshold] * units);
  }

  // Whether the codes are those of all values.
  template <class Element>
  bool encode(const WordsOf<Element>& of, uint8_t* packed) const {
    const auto sums_of = [&](__m512i words) {
      const __m512i index = _mm512_srli_epi16(words, 16 - LOOKED_AT);
      return _mm512_add_epi16(words, _mm512_permutexvar_epi16(index, shift_of));
    };
    const __m512i first = sums_of(of.words[0]), second = sums_of(of.words[1]);
    const __m512i bytes = WordsOf<Element>::bytes(first, second);
    const __m512i in_quarters =
        _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(WordsOf<Element>::in_quarter()));
    const __m512i places = reinterpret_cast<__m512i>(WordsOf<Element>::places);
    const __m512i codes = _mm512_permutexvar_epi16(places, in_quarters);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed), _mm512_castsi512_si256(codes));

    const __m512i below_rank = _mm512_set1_epi16(SUMS_PER_RANK - 1);
    const auto are_thresholds = [&](__m512i sums) {
      return _mm512_testn_epi16_mask(sums, below_rank);
    };
    return _kortestz_mask32_u8(are_thresholds(first), are_thresholds(second)) != 0;
  }
};
