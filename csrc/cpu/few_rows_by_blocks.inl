// A few rows of x and some blocks of codes at a time, by shuffles or permutations. Where several
// blocks are taken together and a row of W has a rest of fewer, zeros stand beside its last.

// What these rows may have of L1, beside codes and scales; and where each is read for several rows
// of W at once, so that longer parts of them are worth some misses.
constexpr int64_t PLACES_IN_L1 = 24 << 10, SHARED_PLACES = 32 << 10;
// How far ahead the codes of scales are asked for.
constexpr int64_t SCALES_AHEAD = 1 << 9;

// Whether rows of W are whole blocks of BLOCK_CODES codes of one scale, and walked as such.
inline bool takes_code_blocks(const WeightView& weight) {
  return WALKS_BLOCKS && weight.codebook != nullptr && weight.k % BLOCK_CODES == 0 &&
         weight.block_size() >= BLOCK_CODES;
}

// What stands for the values of x where blocks of codes meet them: their own type does, if its
// products are fast; else 16 bits are multiplied as whole numbers.
enum class PlacedAs : uint8_t { floats, words, pairs };

inline PlacedAs placed_as(ElementType type) {
  if (type == ElementType::float32) return PlacedAs::floats;
  return are_paired(type) ? PlacedAs::pairs : PlacedAs::words;
}

// A few rows of x as the threads share them.
struct FewRows {
  int64_t num_rows, k;
  ElementType type;  // of x
  PlacedAs kind;
  float* rows;         // [num_rows, k]
  float* places;       // the same as blocks of this kind read them, in groups of rows
  float* scales;       // [num_rows, scales_stride]: of words
  uint32_t* wordless;  // [num_blocks + 1]: a bit for each row whose block has no words

  static constexpr int64_t MOST_TOGETHER = std::max(BLOCKS_TOGETHER, PairBlocks::TOGETHER);
  // Vectors may read beyond the last scale.
  static int64_t scales_stride(int64_t k) { return k / BLOCK_CODES + LANES; }
  static int64_t placed(int64_t k) {
    constexpr int64_t TOGETHER_CODES = MOST_TOGETHER * BLOCK_CODES;
    return (k + TOGETHER_CODES - 1) / TOGETHER_CODES * TOGETHER_CODES;
  }
  static int64_t size(int64_t num_rows, int64_t k) {
    return num_rows * (k + placed(k) + scales_stride(k)) + k / BLOCK_CODES + 1;
  }
  FewRows(const MatrixView& x, int64_t count, float* memory)
      : num_rows(count),
        k(x.columns),
        type(x.type),
        kind(placed_as(x.type)),
        rows(memory),
        places(rows + count * k),
        scales(places + count * placed(k)),
        wordless(reinterpret_cast<uint32_t*>(scales + count * scales_stride(k))) {}

  bool is_placed() const { return WALKS_BLOCKS && k % BLOCK_CODES == 0; }
  int64_t together() const {
    return kind == PlacedAs::pairs ? PairBlocks::TOGETHER : BLOCKS_TOGETHER;
  }
  int64_t num_blocks() const { return k / BLOCK_CODES; }
  int64_t scales_stride() const { return scales_stride(k); }
  // Where a block of a row is placed, with those that it is multiplied with: [group, blocks, row of
  // the group, together() * BLOCK_CODES].
  int64_t place_of(int64_t row, int64_t block) const {
    const int64_t group = row / ROWS_TOGETHER * ROWS_TOGETHER, first = block / together();
    return group * placed(k) + (first * height(group) + row - group) * together() * BLOCK_CODES;
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
      if (depths.last < k) continue;
      static const float zeros[BLOCK_CODES] = {};
      for (int64_t block = num_blocks(); block % together() != 0; ++block) {
        place(row, block, zeros);
      }
    }
  }

 private:
  void place(int64_t row, int64_t block, const float* source) const {
    const int64_t target = place_of(row, block), number = block % together();
    switch (kind) {
      case PlacedAs::floats:
        return put<FloatBlocks>(source, number, places + target, [](float value) { return value; });
      case PlacedAs::pairs:
        return put<PairBlocks>(
            source, number, reinterpret_cast<int16_t*>(places) + target,
            [](float value) { return static_cast<int16_t>(bits_of(value) >> 16); });
      case PlacedAs::words:
        break;
    }
    auto* words = reinterpret_cast<int16_t*>(places) + target;
    const float scale = place_words(source, least_fine_word(type), number, words);
    scales[row * scales_stride() + block] = scale;
    const uint32_t rows_before = row == 0 ? 0 : wordless[block];
    wordless[block] = rows_before | static_cast<uint32_t>(scale == NO_WORDS) << row;
  }

  // target[place of i] = convert(source[i]), of the block with this number of those together.
  template <class Blocks, class Value, class Convert>
  static void put(const float* source, int64_t number, Value* target, const Convert& convert) {
#pragma GCC unroll 64
    for (int64_t i = 0; i < BLOCK_CODES; ++i) {
      target[Blocks::place(number, i)] = convert(source[i]);
    }
  }
};

// Some blocks of the rows of W that belong to a strip.
struct BlocksOfStrip {
  const WeightView& weight;
  Range columns, blocks;  // rows of W, and which blocks of each
};

// The scales of blocks of COLUMNS consecutive rows of W; where rows of x have scales of their own,
// the products of both for each of them.
template <class Blocks, int COLUMNS, int ROWS>
struct ColumnScales {
  static constexpr int64_t STRIDE = DEPTH + LANES;
  static constexpr int SCALED_ROWS = Blocks::OF_WORDS ? ROWS : 1;

  BlockScales of_weight;
  int64_t row_blocks, count;  // of a row of W, and how many of them are met
  const float* of_x;          // from the first that is met on
  int64_t of_x_stride;
  const uint8_t* next = nullptr;  // the codes of those of the next columns, or null
  alignas(64) float found[COLUMNS][STRIDE] = {};
  alignas(64) float scales[COLUMNS][SCALED_ROWS][STRIDE];

  // Of rows of x from `row` on.
  ColumnScales(const WeightView& weight, const FewRows& x, int64_t row, Range blocks)
      : of_weight(weight),
        row_blocks(x.num_blocks()),
        count(blocks.size()),
        of_x(x.scales + row * x.scales_stride() + blocks.first),
        of_x_stride(x.scales_stride()) {}

  // From the block `first` on of the first column. `is_found`: while the columns before were met.
  void find(int64_t first, bool is_found, bool has_next) {
    for (int c = 0; c < COLUMNS; ++c) {
      const int64_t block = first + c * row_blocks;
      if (!is_found) of_weight.look_up(block, count, found[c]);
      of_weight.for_vectors(block, count, [&](int64_t i, Floats factor, Floats offset) {
        const Floats scale = load(found[c] + i) * factor + offset;
        if constexpr (!Blocks::OF_WORDS) return store(scales[c][0] + i, scale);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; ++row) {
          store(scales[c][row] + i, scale * load(of_x + row * of_x_stride + i));
        }
      });
      for (auto& of_row : scales[c]) {  // of the zeros beside the last block
        std::fill_n(of_row + count, Blocks::TOGETHER - 1, 0.0f);
      }
    }
    next = of_weight.codes_at(first);
    if (next == nullptr) return;
    if (has_next) next += COLUMNS * row_blocks;
    prefetch(next + SCALES_AHEAD, (COLUMNS - 1) * row_blocks + count);
  }

  // Of `many` blocks of the next columns, from block i on: where they have codes.
  void look_up_next(const uint8_t* codes, int64_t i, int64_t many) {
    if (codes == nullptr) return;
    const float* const map = of_weight.view.map;
    codes += i;
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c, codes += row_blocks) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < many; ++j) found[c][i + j] = map[codes[j]];
    }
  }
};

// Asks for what codes of `columns` rows of W are met later.
template <class Blocks>
inline void prefetch_blocks(const uint8_t* codes, int64_t stride, int columns) {
  constexpr int64_t LINE = 64, BYTES = Blocks::TOGETHER * BLOCK_CODES / 2;
  for (int c = 0; c < columns; ++c, codes += stride) {
#pragma GCC unroll 2
    for (int64_t byte = 0; byte < BYTES; byte += LINE) {
      __builtin_prefetch(codes + byte + columns * CODES_AHEAD);
      if constexpr (CODES_AHEAD_IN_L2 > 0) {
        __builtin_prefetch(codes + byte + CODES_AHEAD_IN_L2, 0, IN_L2);
      }
    }
  }
}

// sums[i * TILE_COLUMNS + c] += factor * <x[row + i], W[columns.first + c]> for ROWS rows of x and
// COLUMNS rows of W at a time; returns how many of the strip's columns that were. While the blocks
// of some rows of W are multiplied, the scales of the next are looked up: that costs little there,
// as it needs none of the same units.
template <int ROWS, int COLUMNS, class Blocks>
[[gnu::noinline]] int64_t add_block_dots(const Blocks& blocks, float factor,
                                         const BlocksOfStrip& strip, const FewRows& x, int64_t row,
                                         float* sums) {
  using Value = typename Blocks::Value;
  using Scales = ColumnScales<Blocks, COLUMNS, ROWS>;
  constexpr int64_t TOGETHER = Blocks::TOGETHER;
  const int64_t first = strip.blocks.first, count = strip.blocks.size();
  const int64_t num_whole = count - count % TOGETHER, codes_stride = strip.weight.k / 2;
  const auto* const values = reinterpret_cast<const Value*>(x.places) + x.place_of(row, first);
  Scales scales(strip.weight, x, row, strip.blocks);
  int64_t block = strip.columns.first * x.num_blocks() + first, c = 0;  // the block in all of W
  for (; c + COLUMNS <= strip.columns.size(); block += COLUMNS * x.num_blocks()) {
    scales.find(block, scales.next != nullptr, c + 2 * COLUMNS <= strip.columns.size());
    MetBlocks<Value> met{strip.weight.codes + block * (BLOCK_CODES / 2),
                         codes_stride,
                         values,
                         scales.scales[0][0],
                         Blocks::OF_WORDS ? Scales::STRIDE : 0,
                         Scales::SCALED_ROWS * Scales::STRIDE,
                         count - num_whole};
    BlockSum totals[COLUMNS][ROWS] = {};
    const uint8_t* const next = scales.next;
    for (int64_t i = 0; i < num_whole; i += TOGETHER) {
      prefetch_blocks<Blocks>(met.codes, codes_stride, COLUMNS);
      scales.look_up_next(next, i, TOGETHER);
      blocks.template add<true, COLUMNS, ROWS>(met, totals);
      met.codes += TOGETHER * BLOCK_CODES / 2;
      met.values += ROWS * TOGETHER * BLOCK_CODES;
      met.scales += TOGETHER;
    }
    if (num_whole < count) {
      scales.look_up_next(next, num_whole, count - num_whole);
      blocks.template add<false, COLUMNS, ROWS>(met, totals);
    }
#pragma GCC unroll 4
    for (int column = 0; column < COLUMNS; ++column, ++c) {
      float found[ROWS];
      find_totals(totals[column], found);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) sums[i * TILE_COLUMNS + c] += factor * found[i];
    }
  }
  return c;
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
  constexpr int COLUMNS = Blocks::columns(ROWS);
  const int64_t done = add_block_dots<ROWS, COLUMNS>(blocks, factor, strip, x, row, sums);
  if constexpr (COLUMNS > 1) {
    const Range left{strip.columns.first + done, strip.columns.last};
    add_block_dots<ROWS, 1>(blocks, factor, {strip.weight, left, strip.blocks}, x, row,
                            sums + done);
  }
}

// strip.sums[i][c] += factor * <x[i], W[column + c]> for the columns of a strip, in blocks of
// codes: as many blocks at a time as the rows of x that share a decoding leave in L1.
template <class Blocks>
inline void add_block_dots_of_strip(const WeightView& weight, const Blocks& blocks, float factor,
                                    const FewRows& x, int64_t column, const Strip& strip) {
  constexpr int64_t BLOCK_BYTES = BLOCK_CODES * sizeof(typename Blocks::Value);
  const Range columns{column, std::min(column + TILE_COLUMNS, weight.n)};
  const int64_t num_blocks = x.num_blocks();
  constexpr int64_t BYTES = Blocks::columns(ROWS_TOGETHER) > 1 ? SHARED_PLACES : PLACES_IN_L1;
  const int64_t most = std::min(DEPTH, BYTES / (x.height(0) * BLOCK_BYTES));
  const int64_t num_parts = (num_blocks + most - 1) / most;
  for (int64_t part = 0; part < num_parts; ++part) {
    const Range range = part_of(num_blocks, Blocks::TOGETHER, part, num_parts);
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
    if (!takes_code_blocks(weight)) return;
    if (x.kind == PlacedAs::pairs) step_ = pairs_of_codebook(*weight.codebook, words_);
    if (x.kind != PlacedAs::words) return;
    step_ = words_of_codebook(*weight.codebook, words_);
    const std::span<const uint32_t> wordless(x.wordless, x.num_blocks());
    has_wordless_ = std::ranges::any_of(wordless, [](uint32_t rows) { return rows != 0; });
  }

  void add(int64_t column, const Strip& strip) const {
    if (!takes_code_blocks(weight_)) {
      return add_dots_of_strip<FEW_ROWS>(weight_, x_.num_rows, column, x_.rows, strip.sums);
    }
    const auto add_all = [&](const auto& blocks) {
      add_block_dots_of_strip(weight_, blocks, step_, x_, column, strip);
    };
    switch (x_.kind) {
      case PlacedAs::floats:
        return with_float_blocks(weight_.codebook->values, add_all);
      case PlacedAs::pairs:
        return with_pair_blocks(words_, add_all);
      case PlacedAs::words:
        with_word_blocks(words_, add_all);
    }
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
