// Blocks of BLOCK_CODES codes times rows of x, two blocks at a time: a permutation of words or of
// floats looks up a whole register of codes. Words of eight codes of the two blocks lie in turns,
// so that both their scales are one load, repeated.

constexpr bool WALKS_BLOCKS = true;
constexpr int64_t BLOCKS_TOGETHER = 2;
constexpr int64_t ROWS_TOGETHER = 8;
constexpr int ROWS_SPREAD = 4;
constexpr int64_t CODES_AHEAD = 2 << 10;
constexpr int64_t CODES_AHEAD_IN_L2 = 32 << 10;

using BlockSum = Floats;

// Of lanes that are floats. No lambda: gather_words says why.
inline __m512i add_floats(__m512i a, __m512i b) {
  return reinterpret_cast<__m512i>(reinterpret_cast<Floats>(a) + reinterpret_cast<Floats>(b));
}

// found[i] = the sum of the lanes of sums[i]: of five to eight together, for a third of the
// instructions that they take one by one; halves are added to halves as there.
template <int ROWS>
inline void find_totals(const BlockSum (&sums)[ROWS], float (&found)[ROWS]) {
  constexpr int MOST = 8;
  static_assert(ROWS <= MOST);
  if constexpr (ROWS <= 4) {
    for (int i = 0; i < ROWS; ++i) found[i] = sum_of_lanes(sums[i]);
    return;
  }
  __m512i rows[MOST] = {};
  std::memcpy(rows, sums, sizeof sums);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = add_floats(_mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x44),
                         _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xee));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    rows[i] = add_floats(_mm512_shuffle_i32x4(rows[i], rows[2 + i], 0x88),
                         _mm512_shuffle_i32x4(rows[i], rows[2 + i], 0xdd));
  }
  const __m512i pairs =
      add_floats(_mm512_unpacklo_epi64(rows[0], rows[1]), _mm512_unpackhi_epi64(rows[0], rows[1]));
  const auto last = reinterpret_cast<__m512>(pairs);
  float lanes[LANES];  // the sums of 0, 1; 4, 5; 2, 3; 6, 7, and each once more beside it
  _mm512_storeu_ps(lanes, last + _mm512_shuffle_ps(last, last, 0xb1));
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i) found[i] = lanes[i % 4 / 2 * 8 + i / 4 * 4 + i % 2 * 2];
}

// The codes of two blocks, or of one where only that may be read, a word of each in turns.
template <bool IS_WHOLE>
inline __m512i codes_in_turns(const uint8_t* codes) {
  const __m512i turns = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  __m512i words;
  if constexpr (IS_WHOLE) {
    words = _mm512_loadu_si512(codes);
  } else {
    words = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  }
  return _mm512_permutexvar_epi32(turns, words);
}

// Two scales in turns.
inline Floats scales_in_turns(const float* scales) {
  uint64_t both;
  std::memcpy(&both, scales, sizeof both);
  return reinterpret_cast<Floats>(_mm512_set1_epi64(static_cast<int64_t>(both)));
}

// sum + the products of both halves of each lane.
template <bool HAS_VNNI>
inline __m512i add_products(__m512i sum, __m512i a, __m512i b) {
#ifndef QLORA_EMULATION
  if constexpr (HAS_VNNI) {  // by name: an intrinsic's function is not inlined into this target
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
    return sum;
  }
#endif
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

// Sums of products of 16-bit whole numbers, exact in each block.
template <bool HAS_VNNI>
struct WordBlocksOn {
  using Value = int16_t;
  __m512i words;  // the sixteen twice: five bits of an index count

  explicit WordBlocksOn(const int16_t (&values)[NUM_CODES])
      : words(
            _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)))) {}

  // A shift by 4 s leaves nibble s of each half of a word as an index; the high nibble of a byte
  // comes first.
  static constexpr int64_t place(int64_t block, int64_t i) {
    const int64_t word = i / 8, half = i / 4 % 2, s = i % 4 ^ 1;
    return s * (2 * LANES) + (2 * word + block) * 2 + half;
  }

  // sums[row] += scales of the row * <its values, codes>
  template <bool IS_WHOLE, int ROWS>
  void add(const uint8_t* codes, const RowsOfBlocks<int16_t>& x, BlockSum (&sums)[ROWS]) const {
    const __m512i indices = codes_in_turns<IS_WHOLE>(codes);
    __m512i values[4];
#pragma GCC unroll 4
    for (unsigned s = 0; s < 4; ++s) {
      values[s] = _mm512_permutexvar_epi16(_mm512_srli_epi16(indices, 4 * s), words);
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      const int16_t* factors = x.values + row * BLOCKS_TOGETHER * BLOCK_CODES;
      __m512i sum = _mm512_madd_epi16(values[0], _mm512_loadu_si512(factors));
#pragma GCC unroll 3
      for (int s = 1; s < 4; ++s) {
        sum = add_products<HAS_VNNI>(sum, values[s], _mm512_loadu_si512(factors + s * 2 * LANES));
      }
      const Floats scales = scales_in_turns(x.scales + row * x.scale_stride);
      sums[row] = fused_multiply_add(_mm512_cvtepi32_ps(sum), scales, sums[row]);
    }
  }
};

using WordBlocks = WordBlocksOn<false>;

// Calls body with the blocks that this machine multiplies best.
template <class Body>
inline void with_word_blocks(const int16_t (&words)[NUM_CODES], const Body& body) {
  if (has_vbmi()) return body(WordBlocksOn<true>(words));
  body(WordBlocksOn<false>(words));
}

// The same in fp32.
struct FloatBlocks {
  using Value = float;
  Table16 table;

  explicit FloatBlocks(const float (&values)[NUM_CODES]) : table(values) {}

  static constexpr int64_t place(int64_t block, int64_t i) {
    return (i % 8 ^ 1) * LANES + 2 * (i / 8) + block;
  }

  template <bool IS_WHOLE, int ROWS>
  void add(const uint8_t* codes, const RowsOfBlocks<float>& x, BlockSum (&sums)[ROWS]) const {
    const auto indices = reinterpret_cast<Words>(codes_in_turns<IS_WHOLE>(codes));
    const Floats scales = scales_in_turns(x.scales);
    Floats dots[ROWS];
#pragma GCC unroll 8
    for (unsigned s = 0; s < 8; ++s) {
      const Floats values = table[indices >> 4 * s];
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        const Floats factors = load(x.values + row * BLOCKS_TOGETHER * BLOCK_CODES + s * LANES);
        dots[row] = s == 0 ? values * factors : fused_multiply_add(values, factors, dots[row]);
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
      sums[row] = fused_multiply_add(dots[row], scales, sums[row]);
  }

  // sums[row][place] += factor of the row * scale * value, over COUNT rows of W
  template <bool IS_WHOLE, int COUNT, int ROWS>
  void spread(const WeightedBlocks& blocks, float* sums) const {
    Words indices[COUNT];
    Floats factors[COUNT][ROWS];
#pragma GCC unroll 4
    for (int i = 0; i < COUNT; ++i) {
      const uint8_t* codes = blocks.codes + i * blocks.codes_stride;
      indices[i] = reinterpret_cast<Words>(codes_in_turns<IS_WHOLE>(codes));
      const Floats scales = scales_in_turns(blocks.scales + i * blocks.scales_stride);
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        factors[i][row] = scales * broadcast(blocks.factors[i * ROWS + row]);
      }
    }
#pragma GCC unroll 8
    for (unsigned s = 0; s < 8; ++s) {
      Floats values[COUNT];
#pragma GCC unroll 4
      for (int i = 0; i < COUNT; ++i) values[i] = table[indices[i] >> 4 * s];
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        float* const target = sums + row * BLOCKS_TOGETHER * BLOCK_CODES + s * LANES;
        Floats sum = load(target);
#pragma GCC unroll 4
        for (int i = 0; i < COUNT; ++i) sum = fused_multiply_add(values[i], factors[i][row], sum);
        store(target, sum);
      }
    }
  }
};
