// Blocks of BLOCK_CODES codes times rows of x, value by value, where there are no byte shuffles.

constexpr bool WALKS_BLOCKS = false;  // rows of values are faster
constexpr int64_t BLOCKS_TOGETHER = 1;
constexpr int64_t ROWS_TOGETHER = 4;
constexpr int ROWS_SPREAD = 1;
constexpr int64_t CODES_AHEAD = 2 << 10;
constexpr int64_t CODES_AHEAD_IN_L2 = 0;

using BlockSum = float;

// found[i] = sums[i].
template <int ROWS>
inline void find_totals(const BlockSum (&sums)[ROWS], float (&found)[ROWS]) {
  std::copy(sums, sums + ROWS, found);
}

// Sum: in which the products of one block are summed.
template <class Element, class Sum>
struct ValueBlocks {
  using Value = Element;
  static constexpr int64_t TOGETHER = 1;
  static constexpr bool OF_WORDS = sizeof(Element) < sizeof(float);
  static constexpr int columns(int) { return 1; }
  Element values[NUM_CODES];

  explicit ValueBlocks(const Element (&source)[NUM_CODES]) {
    std::copy(source, source + NUM_CODES, values);
  }

  static constexpr int64_t place(int64_t, int64_t i) { return i; }

  template <bool, int COLUMNS, int ROWS>
  void add(const MetBlocks<Element>& met, BlockSum (&sums)[COLUMNS][ROWS]) const {
    static_assert(COLUMNS == 1);
    Sum dots[ROWS] = {};
    for (int64_t i = 0; i < BLOCK_CODES; ++i) {
      const Sum value = values[nibble_at(met.codes, i)];
      for (int row = 0; row < ROWS; ++row) dots[row] += value * met.values[row * BLOCK_CODES + i];
    }
    for (int row = 0; row < ROWS; ++row) {
      sums[0][row] += static_cast<float>(dots[row]) * met.scales[row * met.scales_of_row];
    }
  }

  // sums[row][place] += factor of the row * scale * value, over COUNT rows of W
  template <bool, int COUNT, int ROWS>
  void spread(const WeightedBlocks& blocks, float* sums) const {
    for (int i = 0; i < COUNT; ++i) {
      const uint8_t* codes = blocks.codes + i * blocks.codes_stride;
      const float scale = blocks.scales[i * blocks.scales_stride];
      for (int64_t j = 0; j < BLOCK_CODES * ROWS; ++j) {
        const int64_t row = j / BLOCK_CODES, place = j % BLOCK_CODES;
        sums[j] += scale * blocks.factors[i * ROWS + row] * values[nibble_at(codes, place)];
      }
    }
  }
};

using WordBlocks = ValueBlocks<int16_t, int64_t>;
using FloatBlocks = ValueBlocks<float, float>;

template <class Body>
inline void with_word_blocks(const int16_t (&words)[NUM_CODES], const Body& body) {
  body(WordBlocks(words));
}

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
