// A few rows of x and BLOCKS_TOGETHER blocks of codes at a time, by shuffles or permutations. Where
// a row of W has an odd number of blocks and two are taken together, zeros stand beside the last.

// What these rows may have of L1, beside codes and scales.
constexpr int64_t PLACES_IN_L1 = 24 << 10;
// How far ahead the codes of scales are asked for.
constexpr int64_t SCALES_AHEAD = 1 << 9;

// Whether rows of W are whole blocks of BLOCK_CODES codes of one scale, and walked as such.
inline bool takes_code_blocks(const WeightView& weight) {
  return WALKS_BLOCKS && weight.codebook != nullptr && weight.k % BLOCK_CODES == 0 &&
         weight.block_size() >= BLOCK_CODES;
}

// A few rows of x as the threads share them.
struct FewRows {
  int64_t num_rows, k;
  ElementType type;    // of x: 16-bit values are multiplied as whole numbers
  float* rows;         // [num_rows, k]
  float* places;       // the same as FloatBlocks or WordBlocks reads them, in groups of rows
  float* scales;       // [num_rows, scales_stride]: of words
  uint32_t* wordless;  // [num_blocks + 1]: a bit for each row whose block has no words

  // Vectors may read beyond the last scale.
  static int64_t scales_stride(int64_t k) { return k / BLOCK_CODES + LANES; }
  static int64_t placed(int64_t k) {
    constexpr int64_t TOGETHER_CODES = BLOCKS_TOGETHER * BLOCK_CODES;
    return (k + TOGETHER_CODES - 1) / TOGETHER_CODES * TOGETHER_CODES;
  }
  static int64_t size(int64_t num_rows, int64_t k) {
    return num_rows * (k + placed(k) + scales_stride(k)) + k / BLOCK_CODES + 1;
  }
  FewRows(const MatrixView& x, int64_t count, float* memory)
      : num_rows(count),
        k(x.columns),
        type(x.type),
        rows(memory),
        places(rows + count * k),
        scales(places + count * placed(k)),
        wordless(reinterpret_cast<uint32_t*>(scales + count * scales_stride(k))) {}

  bool is_placed() const { return WALKS_BLOCKS && k % BLOCK_CODES == 0; }
  bool wants_words() const { return type != ElementType::float32; }
  int64_t num_blocks() const { return k / BLOCK_CODES; }
  int64_t scales_stride() const { return scales_stride(k); }
  // Where a block of a row is placed, with those that it is multiplied with: [group, blocks, row of
  // the group, BLOCKS_TOGETHER * BLOCK_CODES].
  int64_t place_of(int64_t row, int64_t block) const {
    const int64_t group = row / ROWS_TOGETHER * ROWS_TOGETHER, first = block / BLOCKS_TOGETHER;
    return group * placed(k) +
           (first * height(group) + row - group) * BLOCKS_TOGETHER * BLOCK_CODES;
  }
  int64_t height(int64_t group) const { return std::min(ROWS_TOGETHER, num_rows - group); }

  // Reads and places the values of some depths, from the first of a block on.
  void prepare(const DenseRows& source, Range depths) const {
    for (int64_t row = 0; row < num_rows; ++row) {
      source.read(row, depths.first, depths.size(), rows + row * k + depths.first);
      if (!is_placed()) continue;
      for (int64_t depth = depths.first; depth < depths.last; depth += BLOCK_CODES) {
        place(row, depth / BLOCK_CODES, rows + row * k + depth);
      }
      if (depths.last == k && num_blocks() % BLOCKS_TOGETHER != 0) {
        static const float zeros[BLOCK_CODES] = {};
        place(row, num_blocks(), zeros);
      }
    }
  }

 private:
  void place(int64_t row, int64_t block, const float* source) const {
    const int64_t target = place_of(row, block), number = block % BLOCKS_TOGETHER;
    if (wants_words()) {
      auto* words = reinterpret_cast<int16_t*>(places) + target;
      const float scale = place_words(source, least_fine_word(type), number, words);
      scales[row * scales_stride() + block] = scale;
      const uint32_t rows_before = row == 0 ? 0 : wordless[block];
      wordless[block] = rows_before | static_cast<uint32_t>(scale == NO_WORDS) << row;
      return;
    }
#pragma GCC unroll 64
    for (int64_t i = 0; i < BLOCK_CODES; ++i) {
      places[target + FloatBlocks::place(number, i)] = source[i];
    }
  }
};

// Some blocks of the rows of W that belong to a strip.
struct BlocksOfStrip {
  const WeightView& weight;
  Range columns, blocks;  // rows of W, and which blocks of each
};

// sums[i * TILE_COLUMNS + c] += factor * <x[row + i], W[columns.first + c]> for ROWS rows of x.
// While the blocks of one row of W are multiplied, the scales of the next are looked up: that costs
// little there, as it needs none of the same units.
template <int ROWS, class Blocks>
[[gnu::noinline]] void add_block_dots(const Blocks& blocks, float factor,
                                      const BlocksOfStrip& strip, const FewRows& x, int64_t row,
                                      float* sums) {
  using Value = typename Blocks::Value;
  constexpr bool HAS_WORDS = sizeof(Value) < sizeof(float);
  constexpr int64_t STRIDE = DEPTH + LANES;
  const int64_t first = strip.blocks.first, count = strip.blocks.size();
  const int64_t num_whole = count - count % BLOCKS_TOGETHER;
  const float* const own = x.scales + row * x.scales_stride() + first;
  const auto* const values = reinterpret_cast<const Value*>(x.places) + x.place_of(row, first);
  const BlockScales block_scales(strip.weight);
  const float* const map = strip.weight.scales.map;
  alignas(64) float found[STRIDE] = {}, scales[HAS_WORDS ? ROWS : 1][STRIDE];
  int64_t block = strip.columns.first * x.num_blocks() + first;  // in all of W
  for (int64_t c = 0; c < strip.columns.size(); ++c, block += x.num_blocks()) {
    const uint8_t* next = block_scales.codes_at(block);
    if (c == 0 || next == nullptr) block_scales.look_up(block, count, found);
    if (next != nullptr && c + 1 < strip.columns.size()) next += x.num_blocks();
    if (next != nullptr) prefetch(next + SCALES_AHEAD, count);
    block_scales.for_vectors(block, count, [&](int64_t i, Floats scale, Floats offset) {
      const Floats of_weight = load(found + i) * scale + offset;
      if constexpr (!HAS_WORDS) return store(scales[0] + i, of_weight);
#pragma GCC unroll 8
      for (int j = 0; j < ROWS; ++j) {
        store(scales[j] + i, of_weight * load(own + j * x.scales_stride() + i));
      }
    });
    if (num_whole < count) {
      for (auto& of_row : scales) of_row[count] = 0.0f;  // of the zeros beside the last block
    }
    const uint8_t* codes = strip.weight.codes + block * (BLOCK_CODES / 2);
    RowsOfBlocks<Value> rows{values, scales[0], HAS_WORDS ? STRIDE : 0};
    BlockSum totals[ROWS] = {};
    int64_t i = 0;
    for (; i < num_whole; codes += BLOCKS_TOGETHER * BLOCK_CODES / 2) {
      __builtin_prefetch(codes + CODES_AHEAD);
      if constexpr (CODES_AHEAD_IN_L2 > 0) __builtin_prefetch(codes + CODES_AHEAD_IN_L2, 0, IN_L2);
      if (next != nullptr) {
        for (int64_t j = 0; j < BLOCKS_TOGETHER; ++j) found[i + j] = map[next[i + j]];
      }
      blocks.template add<true>(codes, rows, totals);
      rows.values += ROWS * BLOCKS_TOGETHER * BLOCK_CODES;
      rows.scales += BLOCKS_TOGETHER;
      i += BLOCKS_TOGETHER;
    }
    if (i < count) {
      if (next != nullptr) found[i] = map[next[i]];
      blocks.template add<false>(codes, rows, totals);
    }
    float found_totals[ROWS];
    find_totals(totals, found_totals);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) sums[i * TILE_COLUMNS + c] += factor * found_totals[i];
  }
}

// The same for the group of rows of x from `row` on, of at most ROWS.
template <int ROWS, class Blocks>
inline void add_block_dots_of_group(const Blocks& blocks, float factor, const BlocksOfStrip& strip,
                                    const FewRows& x, int64_t row, float* sums) {
  if constexpr (ROWS > 1) {
    if (x.height(row) < ROWS) {
      return add_block_dots_of_group<ROWS - 1>(blocks, factor, strip, x, row, sums);
    }
  }
  add_block_dots<ROWS>(blocks, factor, strip, x, row, sums);
}

// strip.sums[i][c] += factor * <x[i], W[column + c]> for the columns of a strip, in blocks of
// codes: as many blocks at a time as the rows of x that share a decoding leave in L1.
template <class Blocks>
inline void add_block_dots_of_strip(const WeightView& weight, const Blocks& blocks, float factor,
                                    const FewRows& x, int64_t column, const Strip& strip) {
  constexpr int64_t BLOCK_BYTES = BLOCK_CODES * sizeof(typename Blocks::Value);
  const Range columns{column, std::min(column + TILE_COLUMNS, weight.n)};
  const int64_t num_blocks = x.num_blocks();
  const int64_t most = std::min(DEPTH, PLACES_IN_L1 / (x.height(0) * BLOCK_BYTES));
  const int64_t num_parts = (num_blocks + most - 1) / most;
  for (int64_t part = 0; part < num_parts; ++part) {
    const Range range = part_of(num_blocks, BLOCKS_TOGETHER, part, num_parts);
    for (int64_t row = 0; row < x.num_rows; row += ROWS_TOGETHER) {
      add_block_dots_of_group<ROWS_TOGETHER>(blocks, factor, {weight, columns, range}, x, row,
                                             strip.sums + row * TILE_COLUMNS);
    }
  }
}

// sums[i * TILE_COLUMNS + c] += <x[i], W[columns.first + c]> over one block, for the rows of x
// whose bits are set: in floats, decoded once for all of them. Not inlined, as it is seldom called.
[[gnu::noinline]] inline void add_wordless_block(const WeightView& weight,
                                                 const NibbleDecoder& decoder, const FewRows& x,
                                                 Range columns, int64_t block, float* sums) {
  constexpr int NUM_VECTORS = BLOCK_CODES / LANES;
  for (int64_t c = 0; c < columns.size(); ++c) {
    const int64_t first = (columns.first + c) * weight.k + block * BLOCK_CODES;
    const uint8_t* codes = codes_at<NibbleDecoder>(weight, first);
    const Floats scale = broadcast(weight.scale_at(first));
    Floats values[NUM_VECTORS];
    for (int i = 0; i < NUM_VECTORS; ++i) {
      values[i] = decoder(codes + i * NibbleDecoder::VECTOR_BYTES) * scale;
    }
    for (uint32_t rows = x.wordless[block]; rows != 0; rows &= rows - 1) {
      const int64_t row = std::countr_zero(rows);
      const float* from = x.rows + row * x.k + block * BLOCK_CODES;
      Floats dots[2] = {zeros(), zeros()};
      for (int i = 0; i < NUM_VECTORS; ++i) {
        dots[i % 2] = fused_multiply_add(values[i], load(from + i * LANES), dots[i % 2]);
      }
      sums[row * TILE_COLUMNS + c] += sum_of_lanes(dots[0] + dots[1]);
    }
  }
}

// strip.sums[i][c] += <x[i], W[column + c]>, by whichever way takes this weight. What a row of x
// gets does not depend on the other rows: a block has words or not, whatever stands beside it.
class FewRowsTimesWeight {
 public:
  FewRowsTimesWeight(const WeightView& weight, const FewRows& x) : weight_(weight), x_(x) {
    if (!takes_code_blocks(weight) || !x.wants_words()) return;
    step_ = words_of_codebook(*weight.codebook, words_);
    const std::span<const uint32_t> wordless(x.wordless, x.num_blocks());
    has_wordless_ = std::ranges::any_of(wordless, [](uint32_t rows) { return rows != 0; });
  }

  void add(int64_t column, const Strip& strip) const {
    if (!takes_code_blocks(weight_)) {
      return add_dots_of_strip<FEW_ROWS>(weight_, x_.num_rows, column, x_.rows, strip.sums);
    }
    if (!x_.wants_words()) {
      const FloatBlocks blocks(weight_.codebook->values);
      return add_block_dots_of_strip(weight_, blocks, 1.0f, x_, column, strip);
    }
    with_word_blocks(words_, [&](const auto& blocks) {
      add_block_dots_of_strip(weight_, blocks, step_, x_, column, strip);
    });
    if (!has_wordless_) return;
    const Range columns{column, std::min(column + TILE_COLUMNS, weight_.n)};
    const NibbleDecoder decoder(weight_);
    for (int64_t block = 0; block < x_.num_blocks(); ++block) {
      if (x_.wordless[block] == 0) continue;
      add_wordless_block(weight_, decoder, x_, columns, block, strip.sums);
    }
  }

 private:
  const WeightView& weight_;
  const FewRows& x_;
  int16_t words_[NUM_CODES] = {};
  float step_ = 1.0f;
  bool has_wordless_ = false;
};
