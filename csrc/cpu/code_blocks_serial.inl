// Blocks of BLOCK_CODES codes times rows of x, value by value, where there are no byte shuffles.

#ifdef QLORA_EMULATION
constexpr bool WALKS_BLOCKS = true;  // they stand for the shuffles
#else
constexpr bool WALKS_BLOCKS = false;  // rows of values are faster
#endif

using BlockSum = float;

inline BlockSum add_scaled(BlockSum sum, BlockSum block, float scale) {
  return sum + block * scale;
}

inline float total(BlockSum sum) {
  return sum;
}

// Sum: in which the products of one block are summed.
template <class Element, class Sum>
struct ValueBlocks {
  using Value = Element;
  Element values[NUM_CODES];

  explicit ValueBlocks(const Element (&source)[NUM_CODES]) {
    std::copy(source, source + NUM_CODES, values);
  }

  static constexpr int64_t place(int64_t i) { return i; }

  template <int ROWS>
  void operator()(const uint8_t* codes, const Element* x, int64_t stride,
                  BlockSum (&dots)[ROWS]) const {
    Sum sums[ROWS] = {};
    for (int64_t i = 0; i < BLOCK_CODES; ++i) {
      const Sum value = values[nibble_at(codes, i)];
      for (int row = 0; row < ROWS; ++row) sums[row] += value * x[row * stride + i];
    }
    for (int row = 0; row < ROWS; ++row) dots[row] = static_cast<float>(sums[row]);
  }
};

using WordBlocks = ValueBlocks<int16_t, int64_t>;
using FloatBlocks = ValueBlocks<float, float>;
