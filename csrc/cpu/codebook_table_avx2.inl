// The values of TOGETHER consecutive codes, in order.
struct CodebookTable {
  FloatBytes floats;

  explicit CodebookTable(const float (&values)[NUM_CODES]) : floats(values) {}

  void operator()(const uint8_t* codes, Floats (&values)[4]) const {
    // A byte for each of its two codes; a half has every other four of them.
    const __m256i places = _mm256_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13,  //
                                            2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15);
    const __m256i packed =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    const __m256i twice = _mm256_shuffle_epi8(packed, places);
    const __m256i first = _mm256_and_si256(_mm256_srli_epi16(twice, 4), _mm256_set1_epi16(0x000f));
    const __m256i second = _mm256_and_si256(twice, _mm256_set1_epi16(0x0f00));
    floats.look_up(_mm256_or_si256(first, second), values);
  }
};
