// Of sixteen bytes of codes a byte for each of 32, in the order of `places`, which has each twice.
inline __m256i bytes_of_codes(const uint8_t* codes, __m256i places) {
  const __m256i packed =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m256i twice = _mm256_shuffle_epi8(packed, places);
  const __m256i first = _mm256_and_si256(_mm256_srli_epi16(twice, 4), _mm256_set1_epi16(0x000f));
  const __m256i second = _mm256_and_si256(twice, _mm256_set1_epi16(0x0f00));
  return _mm256_or_si256(first, second);
}

// Values of 16 bits by their bytes: all sixteen are scaled and rounded once, and not each value of
// a block.
template <class Element>
struct ScaledTable {
  __m256i low, high;

  ScaledTable(const Table16& table, float scale) {
    Element values[NUM_CODES];
    store(values, table.low * broadcast(scale));
    store(values + LANES, table.high * broadcast(scale));
    __m128i words[2];
    std::memcpy(words, values, sizeof words);
    const __m128i byte = _mm_set1_epi16(0xff);
    low = _mm256_broadcastsi128_si256(
        _mm_packus_epi16(_mm_and_si128(words[0], byte), _mm_and_si128(words[1], byte)));
    high = _mm256_broadcastsi128_si256(
        _mm_packus_epi16(_mm_srli_epi16(words[0], 8), _mm_srli_epi16(words[1], 8)));
  }

  void operator()(const uint8_t* codes, Element* target) const {
    const __m256i places = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11,  //
                                            4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15);
    const __m256i bytes = bytes_of_codes(codes, places);
    const __m256i lows = _mm256_shuffle_epi8(low, bytes), highs = _mm256_shuffle_epi8(high, bytes);
    auto* vectors = reinterpret_cast<__m256i*>(target);
    _mm256_storeu_si256(vectors, _mm256_unpacklo_epi8(lows, highs));
    _mm256_storeu_si256(vectors + 1, _mm256_unpackhi_epi8(lows, highs));
  }
};

// The values of TOGETHER consecutive codes, in order.
struct CodebookTable {
  Table16 table;
  FloatBytes floats;

  explicit CodebookTable(const float (&values)[NUM_CODES]) : table(values), floats(values) {}

  void operator()(const uint8_t* codes, Floats (&values)[4]) const {
    // A half has every other two bytes, which are four codes.
    const __m256i places = _mm256_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13,  //
                                            2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15);
    floats.look_up(bytes_of_codes(codes, places), values);
  }

  // What stores TOGETHER values of a block.
  template <class Element>
    requires(sizeof(Element) == 2)
  ScaledTable<Element> scaled(float scale) const {
    return {table, scale};
  }
};
