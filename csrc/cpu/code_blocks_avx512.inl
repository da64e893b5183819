// Blocks of BLOCK_CODES codes times rows of x, two or four blocks at a time: a permutation of words
// or of floats looks up a whole register of codes. Words of eight codes of these blocks lie in
// turns, so that all their scales are one load, repeated.

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
  static constexpr int64_t TOGETHER = BLOCKS_TOGETHER;
  static constexpr bool OF_WORDS = true;
  static constexpr int columns(int) { return 1; }
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

  // sums[0][row] += scales of the row * <its values, codes>
  template <bool IS_WHOLE, int COLUMNS, int ROWS>
  void add(const MetBlocks<int16_t>& met, BlockSum (&sums)[COLUMNS][ROWS]) const {
    static_assert(COLUMNS == 1);
    const __m512i indices = codes_in_turns<IS_WHOLE>(met.codes);
    __m512i values[4];
#pragma GCC unroll 4
    for (unsigned s = 0; s < 4; ++s) {
      values[s] = _mm512_permutexvar_epi16(_mm512_srli_epi16(indices, 4 * s), words);
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
      const int16_t* factors = met.values + row * BLOCKS_TOGETHER * BLOCK_CODES;
      __m512i sum = _mm512_madd_epi16(values[0], _mm512_loadu_si512(factors));
#pragma GCC unroll 3
      for (int s = 1; s < 4; ++s) {
        sum = add_products<HAS_VNNI>(sum, values[s], _mm512_loadu_si512(factors + s * 2 * LANES));
      }
      const Floats scales = scales_in_turns(met.scales + row * met.scales_of_row);
      sums[0][row] = fused_multiply_add(_mm512_cvtepi32_ps(sum), scales, sums[0][row]);
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

// A processor that multiplies pairs fast may load only one register of x per cycle (Zen 4 does):
// several columns of W^T share it.
constexpr int columns_that_share(int rows) {
  return rows == 1 ? 4 : 2;
}

// Loads what several columns share once: otherwise each product reads it from memory anew.
template <class Vector>
inline void keep_in_register(Vector& vector) {
#ifndef QLORA_EMULATION
  asm("" : "+v"(vector));
#endif
}

// sums[row] += dots[row] * scales
template <int ROWS>
inline void add_scaled(const Floats (&dots)[ROWS], Floats scales, BlockSum (&sums)[ROWS]) {
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; ++row) sums[row] = fused_multiply_add(dots[row], scales, sums[row]);
}

// Sums of products of bf16: four blocks at a time, so that
// sixteen products share a scale. Called only where these products are fast.
struct PairBlocks {
  using Value = int16_t;
  static constexpr int64_t TOGETHER = 4;
  static constexpr bool OF_WORDS = false;
  static constexpr int columns(int rows) { return columns_that_share(rows); }
  __m512i pairs;  // the sixteen twice

  explicit PairBlocks(const int16_t (&values)[NUM_CODES])
      : pairs(
            _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)))) {}

  // As of words, but for the blocks that lie in turns, and the halves of a block one after the
  // other.
  static constexpr int64_t place(int64_t block, int64_t i) {
    const int64_t word = i / 8, half = i / 4 % 2, s = i % 4 ^ 1;
    return (word / 4 * 4 + s) * (2 * LANES) + (word % 4 * TOGETHER + block) * 2 + half;
  }

  template <bool IS_WHOLE, int COLUMNS, int ROWS>
  void add(const MetBlocks<int16_t>& met, BlockSum (&sums)[COLUMNS][ROWS]) const {
    __m512i indices[COLUMNS][2];
    Floats dots[COLUMNS][ROWS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
      find_indices<IS_WHOLE>(met.codes + c * met.codes_stride, met.count, indices[c]);
      std::fill_n(dots[c], ROWS, zeros());
    }
#pragma GCC unroll 8
    for (unsigned s = 0; s < 8; ++s) {
      __m512i values[COLUMNS];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) {
        const __m512i shifted = _mm512_srli_epi16(indices[c][s / 4], s % 4 * 4);
        values[c] = _mm512_permutexvar_epi16(shifted, pairs);
      }
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        const Value* from = met.values + row * TOGETHER * BLOCK_CODES + s * 2 * LANES;
        __m512i factors = _mm512_loadu_si512(from);
        if constexpr (COLUMNS > 1) keep_in_register(factors);
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) add_pairs(dots[c][row], values[c], factors);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
      const float* from = met.scales + c * met.scales_of_column;
      const __m512i scales =
          _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      add_scaled(dots[c], reinterpret_cast<Floats>(scales), sums[c]);
    }
  }

 private:
  // Word w of block b of four is lane 4 w + b of both registers, one after the other. Of fewer
  // blocks no more is read.
  template <bool IS_WHOLE>
  static void find_indices(const uint8_t* codes, int64_t count, __m512i (&indices)[2]) {
    constexpr int64_t BYTES = BLOCK_CODES / 2;
    const __m512i first_words =
        _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const __m512i last_words = _mm512_add_epi32(first_words, _mm512_set1_epi32(4));
    __m512i low, high;
    if constexpr (IS_WHOLE) {
      low = _mm512_loadu_si512(codes);
      high = _mm512_loadu_si512(codes + 2 * BYTES);
    } else {
      low = count == 1 ? codes_of_one(codes) : _mm512_loadu_si512(codes);
      high = count == 3 ? codes_of_one(codes + 2 * BYTES) : _mm512_setzero_si512();
    }
    indices[0] = _mm512_permutex2var_epi32(low, first_words, high);
    indices[1] = _mm512_permutex2var_epi32(low, last_words, high);
  }

  // Twice: no more than zeros meet the other.
  static __m512i codes_of_one(const uint8_t* codes) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  }

  static void add_pairs(Floats& sum, __m512i a, __m512i b) {
#ifdef QLORA_EMULATION
    sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                    reinterpret_cast<__m512bh>(a),
                                                    reinterpret_cast<__m512bh>(b)));
#else  // by name: as above
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
  }
};

// pairs[code] * step = values[code], as bf16. The step is the one of some by which rounding errs
// least: in squares, and in what is common to errors and values, as that adds up in every sum.
// (Thirds as they are would all be rounded up.)
struct PairsOfValues {
  float values[NUM_CODES] = {};
  int16_t pairs[NUM_CODES] = {};
  float step = 1.0f;

  PairsOfValues() = default;
  explicit PairsOfValues(const float (&source)[NUM_CODES]) {
    constexpr int NUM_STEPS = 128;
    std::memcpy(values, source, sizeof values);
    const Floats exact = load(source);
    const float norm = sum_of_lanes(exact * exact);
    float least = INFINITY;
    for (int i = 0; i < NUM_STEPS; ++i) {
      const float factor = 1.0f + static_cast<float>(i) / NUM_STEPS;
      const Floats scaled = exact * broadcast(factor);
      const auto bits = reinterpret_cast<Words>(scaled);
      const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
      const Floats error = (reinterpret_cast<Floats>(rounded) - scaled) * broadcast(1.0f / factor);
      const float common = sum_of_lanes(error * exact);
      const float cost = sum_of_lanes(error * error) + NUM_CODES * common * common / norm;
      if (!(cost < least)) continue;
      least = cost;
      step = 1.0f / factor;
      uint32_t words[NUM_CODES];
      std::memcpy(words, &rounded, sizeof words);
      std::transform(words, words + NUM_CODES, pairs,
                     [](uint32_t word) { return static_cast<int16_t>(word >> 16); });
    }
  }
};

// The pairs of a codebook; returns their step. A model's layers share a codebook, and a search
// takes a sixth of a small one's call: each thread keeps its last.
inline float pairs_of_codebook(const Codebook& codebook, int16_t (&pairs)[NUM_CODES]) {
  static thread_local PairsOfValues last;
  if (std::memcmp(last.values, codebook.values, sizeof last.values) != 0) {
    last = PairsOfValues(codebook.values);
  }
  std::copy_n(last.pairs, NUM_CODES, pairs);
  return last.step;
}

template <class Body>
inline void with_pair_blocks(const int16_t (&values)[NUM_CODES], const Body& body) {
  body(PairBlocks(values));
}

// The same in fp32.
struct FloatBlocks {
  using Value = float;
  static constexpr int64_t TOGETHER = BLOCKS_TOGETHER;
  static constexpr bool OF_WORDS = false;
  static constexpr int columns(int) { return 1; }
  Table16 table;

  explicit FloatBlocks(const float (&values)[NUM_CODES]) : table(values) {}

  static constexpr int64_t place(int64_t block, int64_t i) {
    return (i % 8 ^ 1) * LANES + 2 * (i / 8) + block;
  }

  template <bool IS_WHOLE, int COLUMNS, int ROWS>
  void add(const MetBlocks<float>& met, BlockSum (&sums)[COLUMNS][ROWS]) const {
    Words indices[COLUMNS];
    Floats dots[COLUMNS][ROWS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
      const uint8_t* codes = met.codes + c * met.codes_stride;
      indices[c] = reinterpret_cast<Words>(codes_in_turns<IS_WHOLE>(codes));
    }
#pragma GCC unroll 8
    for (unsigned s = 0; s < 8; ++s) {
      Floats values[COLUMNS];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) values[c] = table[indices[c] >> 4 * s];
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        Floats factors = load(met.values + row * TOGETHER * BLOCK_CODES + s * LANES);
        if constexpr (COLUMNS > 1) keep_in_register(factors);
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) {
          Floats& dot = dots[c][row];
          dot = s == 0 ? values[c] * factors : fused_multiply_add(values[c], factors, dot);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
      const Floats scales = scales_in_turns(met.scales + c * met.scales_of_column);
      add_scaled(dots[c], scales, sums[c]);
    }
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

// The same for several columns at once.
struct WideFloatBlocks : FloatBlocks {
  using FloatBlocks::FloatBlocks;
  static constexpr int columns(int rows) { return columns_that_share(rows); }
};

template <class Body>
inline void with_float_blocks(const float (&values)[NUM_CODES], const Body& body) {
  if (multiplies_pairs_fast()) return body(WideFloatBlocks(values));
  body(FloatBlocks(values));
}
