// Values of 16 bits: all sixteen are scaled and rounded once, and not each value of a block.
template <class Element>
struct ScaledTable {
  __m512i values;  // twice: an index has a fifth bit

  ScaledTable(const Table16& table, float scale) {
    Element rounded[LANES];
    store(rounded, table.values * broadcast(scale));
    __m256i once;
    std::memcpy(&once, rounded, sizeof once);
    values = _mm512_broadcast_i64x4(once);
  }

  void operator()(const uint8_t* codes, Element* target) const {
    // A byte for each of its two codes, the first of which is its upper half.
    constexpr Halves places{0, 0, 1, 1, 2,  2,  3,  3,  4,  4,  5,  5,  6,  6,  7,  7,
                            8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15};
    const __m512i shifts = _mm512_set1_epi32(4);
    for (int i = 0; i < 2; ++i, codes += LANES, target += 2 * LANES) {
      const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
      const __m512i bytes =
          _mm512_shuffle_epi8(_mm512_broadcast_i32x4(packed), reinterpret_cast<__m512i>(places));
      const __m512i index = _mm512_srlv_epi16(bytes, shifts);
      _mm512_storeu_si512(target, _mm512_permutexvar_epi16(index, values));
    }
  }
};

// The values of four vectors of consecutive codes.
struct CodebookTable {
  Table16 table;

  explicit CodebookTable(const float* values) : table(values) {}

  void operator()(const uint8_t* codes, Floats (&values)[4]) const {
    for (int i = 0; i < 4; ++i) values[i] = table[consecutive_nibbles(codes + i * LANES / 2)];
  }

  // What stores TOGETHER values of a block.
  template <class Element>
    requires(sizeof(Element) == 2)
  ScaledTable<Element> scaled(float scale) const {
    return {table, scale};
  }
};
