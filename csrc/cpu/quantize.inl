// quantize: blocks are read twice from L1, for their absmax and to be coded.

constexpr int64_t MIN_BLOCK = 32, MAX_BLOCK = 4096;

// The largest bits of |x| in each lane, of whole vectors.
template <class Element>
inline Words max_magnitudes(const Element* values, int64_t count) {
  Words largest = broadcast_word(0);
  int64_t i = 0;
  for (; i + TOGETHER <= count; i += TOGETHER) {
    Words found[4];
    for (int v = 0; v < 4; ++v) found[v] = magnitude(load(values + i + v * LANES));
    largest = larger(largest, larger(larger(found[0], found[1]), larger(found[2], found[3])));
  }
  for (; i + LANES <= count; i += LANES) largest = larger(largest, magnitude(load(values + i)));
  return largest;
}

inline Words max_magnitudes(const BFloat16* values, int64_t count) {
  using Halves = uint16_t __attribute__((vector_size(sizeof(Words))));
  Halves largest = {};
  for (int64_t i = 0; i + 2 * LANES <= count; i += 2 * LANES) {
    Halves found;
    std::memcpy(&found, values + i, sizeof found);
    found &= uint16_t{0x7fff};
    largest = found > largest ? found : largest;
  }
  const Words pairs = reinterpret_cast<Words>(largest);
  return larger(pairs << 16, pairs & 0xffff0000u);
}

// The bits of the largest |x| of a block, or above infinity's where it has a NaN.
template <class Element>
inline uint32_t max_magnitude(const Element* values, int64_t count) {
  constexpr int64_t WHOLE = std::is_same_v<Element, BFloat16> ? 2 * LANES : LANES;
  uint32_t result = largest_lane(max_magnitudes(values, count));
  for (int64_t i = count / WHOLE * WHOLE; i < count; ++i) {
    result = std::max(result, bits_of(to_float(values[i])) & 0x7fffffffu);
  }
  return result;
}

template <class Element>
inline int64_t first_nonfinite(const Element* values, int64_t count) {
  int64_t i = 0;
  while (i < count && std::isfinite(to_float(values[i]))) ++i;
  return i;
}

template <class Element>
struct Block {
  const Element* values;
  int64_t count;
  float absmax, factor;  // of which one is the other's inverse
  bool is_ragged;  // shorter than the others: bitsandbytes divides there, where it else multiplies
};

// x[0, count) = clamp(value * (1 / absmax)), or clamp(value / absmax).
template <class Element>
inline void scale_block(const Block<Element>& block, float* x) {
  const Floats one = broadcast(1.0f);
  int64_t i = 0;
  for (; i + LANES <= block.count; i += LANES) {
    const Floats value = load(block.values + i);
    Floats scaled =
        block.is_ragged ? value / broadcast(block.absmax) : value * broadcast(block.factor);
    scaled = scaled > one ? one : scaled;
    store(x + i, scaled < -one ? -one : scaled);
  }
  for (; i < block.count; ++i) {
    const float value = to_float(block.values[i]);
    x[i] = clamp_to_one(block.is_ragged ? value / block.absmax : value * block.factor);
  }
}

// 4-bit codes.
struct CodebookEncoder {
  Ranker ranker;
  RankPacker packer;

  explicit CodebookEncoder(const Codebook& book) : ranker(book.thresholds), packer(book.order) {}

  // Of a block by its absmax. What rounding leaves beyond 1 has the rank of 1, so that nothing need
  // be clamped.
  template <class Element>
  void operator()(const Block<Element>& block, uint8_t* packed) const {
    if (!block.is_ragged) return (*this)(block.values, block.count, block.factor, packed);
    alignas(64) float x[MAX_BLOCK];
    scale_block(block, x);
    (*this)(x, block.count, 1.0f, packed);
  }

  // Of values * factor, two a byte; an odd end is padded with zero's code. Works on a copy: a byte
  // that is stored could be a part of *this, and all would be read again for every vector. Not
  // inlined into the loop over words, which would leave registers to what it seldom calls.
  template <class Element>
  [[gnu::noinline]] void operator()(const Element* values, int64_t count, float factor,
                                    uint8_t* packed) const {
    const CodebookEncoder copy = *this;
    int64_t i = 0;
    for (; i + TOGETHER <= count; i += TOGETHER) copy.encode(values + i, factor, packed + i / 2);
    if (i == count) return;
    Element padded[TOGETHER] = {};
    uint8_t codes[TOGETHER / 2];
    std::copy(values + i, values + count, padded);
    encode(padded, factor, codes);
    std::copy_n(codes, (count - i + 1) / 2, packed + i / 2);
  }

 private:
  template <class Element>
  void encode(const Element* values, float factor, uint8_t* packed) const {
    Words ranks[4];
    for (int i = 0; i < 4; ++i) ranks[i] = ranker(load(values + i * LANES) * broadcast(factor));
    packer(packed, ranks);
  }
};

// encode_int8 of whole vectors: adding and taking away ROUNDER leaves no place for a fraction.
template <class Element>
inline void encode_block8(const Block<Element>& block, uint8_t* codes) {
  constexpr float ROUNDER = 3 << 22;
  const float step = int8_step(block.absmax);
  const Floats limit = broadcast(INT8_MAX_CODE);
  int64_t i = 0;
  for (; step != 0.0f && i + TOGETHER <= block.count; i += TOGETHER) {
    Words words[4];
    for (int v = 0; v < 4; ++v) {
      Floats code = load(block.values + i + v * LANES) / broadcast(step) + ROUNDER - ROUNDER;
      code = code > limit ? limit : code;
      code = code < -limit ? -limit : code;
      words[v] = reinterpret_cast<Words>(__builtin_convertvector(code, SignedWords)) & 0xffu;
    }
    store_bytes(codes + i, words);
  }
  for (; i < block.count; ++i) {
    codes[i] = static_cast<uint8_t>(encode_int8(to_float(block.values[i]), step));
  }
}

// Whole blocks, but for a ragged one at the end. What a block needs before its first value can be
// coded is found for all of them at once: it ends with waiting.
template <class Element>
struct BlockRun {
  static constexpr int64_t AT_ONCE = 2048, MOST = AT_ONCE / MIN_BLOCK;

  const Element* values;
  int64_t count, block_size;
  float absmax[MOST]{}, factor[MOST]{};

  BlockRun(const BlocksTask& task, int64_t first, int64_t length)
      : values(static_cast<const Element*>(task.input) + first),
        count(length),
        block_size(task.block_size) {
    int64_t i = 0;
    for (; i + LANES <= num_whole(); i += LANES) {
      Words found[LANES];
      for (int b = 0; b < LANES; ++b) {
        found[b] = max_magnitudes(values + (i + b) * block_size, block_size);
      }
      store(absmax + i, reinterpret_cast<Floats>(largest_lanes(found)));
    }
    for (; i < num_blocks(); ++i) {
      absmax[i] = float_of(max_magnitude(values + i * block_size, count_of(i)));
    }
    const Floats least = broadcast(MIN_ABSMAX);
    for (i = 0; i < num_blocks(); i += LANES) {
      const Floats found = load(absmax + i);
      store(factor + i, broadcast(1.0f) / (found < least ? least : found));
    }
    const int64_t last = num_whole();
    if (last < num_blocks() && task.codebook != nullptr) {
      absmax[last] = std::max(absmax[last], MIN_ABSMAX);
    }
  }

  int64_t num_blocks() const { return (count + block_size - 1) / block_size; }
  int64_t num_whole() const { return count / block_size; }
  bool is_finite() const {
    uint32_t largest = 0;
    for (float found : absmax) largest = std::max(largest, bits_of(found));
    return largest < bits_of(INFINITY);
  }
  int64_t count_of(int64_t i) const { return std::min(block_size, count - i * block_size); }

  Block<Element> operator[](int64_t i) const {
    return {values + i * block_size, count_of(i), absmax[i], factor[i], i == num_whole()};
  }
  // Asks for what the next run has in the place of these values.
  void prefetch_next(int64_t first, int64_t num_values) const {
    prefetch(values + count + first, num_values * static_cast<int64_t>(sizeof(Element)));
  }
};

// Calls body(run, index of its first block) for all blocks in the range; returns the index of the
// first value that is not finite (and stops there), or -1.
template <class Element, class Body>
inline int64_t for_runs(const BlocksTask& task, Range range, const Body& body) {
  const int64_t step = std::max(BlockRun<Element>::AT_ONCE, task.block_size);
  for (int64_t start = range.first; start < range.last; start += step) {
    const BlockRun<Element> run(task, start, std::min(step, range.last - start));
    if (!run.is_finite()) return start + first_nonfinite(run.values, run.count);
    body(run, start / task.block_size);
  }
  return -1;
}

// The same by body(block, its index).
template <class Element, class Body>
inline int64_t for_blocks(const BlocksTask& task, Range range, const Body& body) {
  return for_runs<Element>(task, range, [&](const BlockRun<Element>& run, int64_t first) {
    for (int64_t i = 0; i < run.num_blocks(); ++i) {
      run.prefetch_next(i * task.block_size, run.count_of(i));
      body(run[i], first + i);
    }
  });
}

// The importance of values first .. first + count, which may lie in several rows; null without one.
inline const float* importance_of(const BlocksTask& task, int64_t first, int64_t count,
                                  float* values) {
  if (task.importance == nullptr) return nullptr;
  for (int64_t i = 0; i < count;) {
    const int64_t column = (first + i) % task.columns;
    const int64_t run = std::min(count - i, task.columns - column);
    std::copy_n(task.importance + column, run, values + i);
    i += run;
  }
  return values;
}

// Codes of the codebook for absmax itself.
template <class Element>
inline int64_t encode_by_absmax(const QuantizeTask& task, Range range) {
  const BlocksTask& blocks = task.blocks;
  const CodebookEncoder encode(*blocks.codebook);
  const WordEncoder encode_by_words(*blocks.codebook);
  return for_runs<Element>(blocks, range, [&](const BlockRun<Element>& run, int64_t first) {
    uint8_t* codes = blocks.codes + first * blocks.block_size / 2;
    for (int64_t i = encode_by_words(run, codes, encode); i < run.num_blocks(); ++i) {
      run.prefetch_next(i * blocks.block_size, run.count_of(i));
      encode(run[i], codes + i * blocks.block_size / 2);
    }
    std::copy_n(run.absmax, run.num_blocks(), task.scales + first);
  });
}

// Codes of the codebook for another scale: body(search, scaled, absmax, index) returns its ratio to
// absmax.
template <class Element, class Body>
inline int64_t encode_by_ratio(const BlocksTask& task, Range range, const Body& body) {
  const CodebookEncoder encode(*task.codebook);
  const ScaleSearch search{*task.codebook, encode.ranker};
  alignas(64) float x[MAX_BLOCK], importance[MAX_BLOCK];
  return for_blocks<Element>(task, range, [&](const Block<Element>& block, int64_t index) {
    scale_block(block, x);
    const int64_t first = index * task.block_size;
    const ScaledBlock scaled{x, importance_of(task, first, block.count, importance), block.count};
    const float ratio = body(search, scaled, block.absmax, index);
    encode(x, block.count, inverse_of(ratio), task.codes + first / 2);
  });
}

template <class Element>
inline int64_t quantize_range(const QuantizeTask& task, Range range) {
  const BlocksTask& blocks = task.blocks;
  if (blocks.codebook == nullptr) {
    return for_blocks<Element>(blocks, range, [&](const Block<Element>& block, int64_t index) {
      encode_block8(block, blocks.codes + index * blocks.block_size);
      task.scales[index] = block.absmax;
    });
  }
  if (task.ratios.empty()) return encode_by_absmax<Element>(task, range);
  return encode_by_ratio<Element>(
      blocks, range,
      [&](const ScaleSearch& search, const ScaledBlock& scaled, float absmax, int64_t index) {
        const float ratio = search.best_ratio(scaled, absmax, task.ratios);
        task.scales[index] = ratio * absmax;
        return ratio;
      });
}

inline int64_t quantize(const QuantizeTask& task, int num_threads) {
  const BlocksTask& blocks = task.blocks;
  const int64_t work = blocks.size * (1 + static_cast<int64_t>(task.ratios.size()));
  std::atomic<int64_t> first_bad{INT64_MAX};
  parallel(threads_for(work, num_threads), [&](const Team& team) {
    const Range range = team.share_of(blocks.size, blocks.block_size);
    int64_t bad = -1;
    dispatch(blocks.type, [&](auto* tag) {
      bad = quantize_range<std::remove_pointer_t<decltype(tag)>>(task, range);
    });
    int64_t seen = first_bad.load();
    while (bad >= 0 && bad < seen && !first_bad.compare_exchange_weak(seen, bad)) {
    }
  });
  return first_bad == INT64_MAX ? -1 : first_bad.load();
}
