// Blocks of BLOCK_CODES codes times rows of x: a byte shuffle looks up 32 codes at once, one byte
// of what they stand for. Unpacking the bytes leaves the values in another order, in which x must
// lie too: `place` says where.

constexpr bool WALKS_BLOCKS = true;
constexpr int64_t BLOCKS_TOGETHER = 1;
constexpr int64_t ROWS_TOGETHER = 4;
constexpr int ROWS_SPREAD = 2;
constexpr int64_t CODES_AHEAD = 2 << 10;
constexpr int64_t CODES_AHEAD_IN_L2 = 0;

using BlockSum = float __attribute__((vector_size(32)));

inline float total(BlockSum sum) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// found[i] = the sum of the lanes of sums[i].
template <int ROWS>
inline void find_totals(const BlockSum (&sums)[ROWS], float (&found)[ROWS]) {
#pragma GCC unroll 4
  for (int i = 0; i < ROWS; ++i) found[i] = total(sums[i]);
}

// The codes of even and of odd values, a byte each.
struct Nibbles {
  __m256i of[2];

  explicit Nibbles(const uint8_t* codes) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i mask = _mm256_set1_epi8(15);
    of[0] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    of[1] = _mm256_and_si256(bytes, mask);
  }
};

// Byte `number` of each of sixteen values, in both halves of a register.
template <class Value>
inline __m256i byte_table(const Value (&values)[NUM_CODES], size_t number) {
  alignas(16) uint8_t bytes[NUM_CODES];
  for (int i = 0; i < NUM_CODES; ++i) {
    bytes[i] = reinterpret_cast<const uint8_t*>(&values[i])[number];
  }
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// Sixteen floats by their bytes: a shuffle looks up one byte of 32 of them.
struct FloatBytes {
  __m256i bytes[4];

  explicit FloatBytes(const float (&values)[NUM_CODES])
      : bytes{byte_table(values, 0), byte_table(values, 1), byte_table(values, 2),
              byte_table(values, 3)} {}

  // Each register takes four codes from both halves.
  void look_up(__m256i codes, __m256 (&values)[4]) const {
    __m256i found[4];
    for (int i = 0; i < 4; ++i) found[i] = _mm256_shuffle_epi8(bytes[i], codes);
    for (int half = 0; half < 2; ++half) {
      const auto unpacked = [&](int i) {
        return half == 0 ? _mm256_unpacklo_epi8(found[i], found[i + 1])
                         : _mm256_unpackhi_epi8(found[i], found[i + 1]);
      };
      const __m256i lower = unpacked(0), upper = unpacked(2);
      values[2 * half] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(lower, upper));
      values[2 * half + 1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(lower, upper));
    }
  }
};

// Where value i of a block stands: each register takes 8 bytes of codes from both halves of 32, or
// 4 where values have four bytes.
constexpr int64_t place_in_block(int64_t i, int64_t from_each_half) {
  const int64_t odd = i % 2, byte = i / 2, half = byte / 16, within = byte % 16;
  const int64_t vector = within / from_each_half, lane = within % from_each_half;
  return odd * (BLOCK_CODES / 2) + (2 * vector + half) * from_each_half + lane;
}

// Sums of products of 16-bit whole numbers, exact in each block.
struct WordBlocks {
  using Value = int16_t;
  static constexpr int64_t TOGETHER = 1;
  static constexpr bool OF_WORDS = true;
  static constexpr int columns(int) { return 1; }
  __m256i low, high;

  explicit WordBlocks(const int16_t (&words)[NUM_CODES])
      : low(byte_table(words, 0)), high(byte_table(words, 1)) {}

  static constexpr int64_t place(int64_t, int64_t i) { return place_in_block(i, 8); }

  // sums[0][row] += scale of the row * <its values, codes>
  template <bool, int COLUMNS, int ROWS>
  void add(const MetBlocks<int16_t>& met, BlockSum (&sums)[COLUMNS][ROWS]) const {
    static_assert(COLUMNS == 1);
    const Nibbles nibbles(met.codes);
    __m256i values[4];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i lows = _mm256_shuffle_epi8(low, nibbles.of[i]);
      const __m256i highs = _mm256_shuffle_epi8(high, nibbles.of[i]);
      values[2 * i] = _mm256_unpacklo_epi8(lows, highs);
      values[2 * i + 1] = _mm256_unpackhi_epi8(lows, highs);
    }
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row) {
      const auto* vectors = reinterpret_cast<const __m256i*>(met.values + row * BLOCK_CODES);
      const auto product = [&](int i) {
        return _mm256_madd_epi16(values[i], _mm256_loadu_si256(vectors + i));
      };
      const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(product(0), product(1)),
                                           _mm256_add_epi32(product(2), product(3)));
      const __m256 scale = _mm256_set1_ps(met.scales[row * met.scales_of_row]);
      sums[0][row] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, sums[0][row]);
    }
  }
};

template <class Body>
inline void with_word_blocks(const int16_t (&words)[NUM_CODES], const Body& body) {
  body(WordBlocks(words));
}

// The same in fp32.
struct FloatBlocks {
  using Value = float;
  static constexpr int64_t TOGETHER = 1;
  static constexpr bool OF_WORDS = false;
  static constexpr int columns(int) { return 1; }
  FloatBytes floats;

  explicit FloatBlocks(const float (&values)[NUM_CODES]) : floats(values) {}

  static constexpr int64_t place(int64_t, int64_t i) { return place_in_block(i, 4); }

  template <bool, int COLUMNS, int ROWS>
  void add(const MetBlocks<float>& met, BlockSum (&sums)[COLUMNS][ROWS]) const {
    static_assert(COLUMNS == 1);
    const Nibbles nibbles(met.codes);
    const __m256 scale = _mm256_set1_ps(met.scales[0]);
    __m256 dots[ROWS];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      __m256 values[4];
      floats.look_up(nibbles.of[i], values);
#pragma GCC unroll 4
      for (int row = 0; row < ROWS; ++row) {
        const float* source = met.values + row * BLOCK_CODES + i * (BLOCK_CODES / 2);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          const __m256 factor = _mm256_loadu_ps(source + 8 * v);
          dots[row] = i + v == 0 ? _mm256_mul_ps(values[v], factor)
                                 : _mm256_fmadd_ps(values[v], factor, dots[row]);
        }
      }
    }
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; ++row)
      sums[0][row] = _mm256_fmadd_ps(dots[row], scale, sums[0][row]);
  }

  // sums[row][place] += factor of the row * scale * value, over COUNT rows of W
  template <bool, int COUNT, int ROWS>
  void spread(const WeightedBlocks& blocks, float* sums) const {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256 values[COUNT][4];
#pragma GCC unroll 2
      for (int i = 0; i < COUNT; ++i) {
        floats.look_up(Nibbles(blocks.codes + i * blocks.codes_stride).of[half], values[i]);
      }
#pragma GCC unroll 8
      for (int row = 0; row < ROWS; ++row) {
        float* const target = sums + row * BLOCK_CODES + half * (BLOCK_CODES / 2);
        __m256 factors[COUNT];
        for (int i = 0; i < COUNT; ++i) {
          const float scale = blocks.scales[i * blocks.scales_stride];
          factors[i] = _mm256_set1_ps(scale * blocks.factors[i * ROWS + row]);
        }
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          __m256 sum = _mm256_loadu_ps(target + 8 * v);
          for (int i = 0; i < COUNT; ++i) sum = _mm256_fmadd_ps(values[i][v], factors[i], sum);
          _mm256_storeu_ps(target + 8 * v, sum);
        }
      }
    }
  }
};

template <class Body>
inline void with_float_blocks(const float (&values)[NUM_CODES], const Body& body) {
  body(FloatBlocks(values));
}

// Nothing of these is called.
using PairBlocks = WordBlocks;
inline float pairs_of_codebook(const Codebook&, int16_t (&)[NUM_CODES]) {
  return 1.0f;
}
template <class Body>
inline void with_pair_blocks(const int16_t (&)[NUM_CODES], const Body&) {}
