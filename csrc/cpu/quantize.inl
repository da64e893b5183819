// quantize: blocks are read twice from L1, for their absmax and to be coded.

constexpr int64_t MIN_BLOCK = 32, MAX_BLOCK = 4096;

// The bits of the largest |x| of a block, or above infinity's where it has a NaN.
template <class Element>
inline uint32_t max_magnitude(const Element* values, int64_t count) {
  Words largest = broadcast_word(0);
  int64_t i = 0;
  for (; i + TOGETHER <= count; i += TOGETHER) {
    Words found[4];
    for (int v = 0; v < 4; ++v) found[v] = magnitude(load(values + i + v * LANES));
    largest = larger(largest, larger(larger(found[0], found[1]), larger(found[2], found[3])));
  }
  for (; i + LANES <= count; i += LANES) largest = larger(largest, magnitude(load(values + i)));
  uint32_t result = largest_lane(largest);
  for (; i < count; ++i) result = std::max(result, bits_of(to_float(values[i])) & 0x7fffffffu);
  return result;
}

inline uint32_t max_magnitude(const BFloat16* values, int64_t count) {
  HalfWords largest = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    HalfWords found;
    std::memcpy(&found, values + i, sizeof found);
    found &= uint16_t{0x7fff};
    largest = found > largest ? found : largest;
  }
  uint32_t result = largest_lane(widen(largest));
  for (; i < count; ++i) result = std::max<uint32_t>(result, values[i].bits & 0x7fffu);
  return result << 16;
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

  // Of values * factor, two a byte; an odd end is padded with zero's code. Works on a copy: a byte
  // that is stored could be a part of *this, and all would be read again for every vector.
  template <class Element>
  void operator()(const Element* values, int64_t count, float factor, uint8_t* packed) const {
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

// Calls body(block, index of its scale) for each block in the range; returns the index of the first
// value that is not finite (and stops there), or -1. What a block needs before its first value can
// be coded is found for several at once: it ends with waiting.
template <class Element, class Body>
inline int64_t for_blocks(const BlocksTask& task, Range range, const Body& body) {
  constexpr int64_t AT_ONCE = 1024, MOST = AT_ONCE / MIN_BLOCK;
  const auto* input = static_cast<const Element*>(task.input);
  const int64_t block_size = task.block_size, step = std::max(AT_ONCE, block_size);
  float absmax[MOST], factor[MOST];
  for (int64_t start = range.first; start < range.last; start += step) {
    const int64_t length = std::min(step, range.last - start);
    const auto block_at = [&](int64_t i) {
      const int64_t first = i * block_size, count = std::min(block_size, length - first);
      return Block<Element>{input + start + first, count, absmax[i], factor[i], count < block_size};
    };
    const int64_t num_blocks = (length + block_size - 1) / block_size;
    for (int64_t i = 0; i < num_blocks; ++i) {
      const Block<Element> block = block_at(i);
      absmax[i] = float_of(max_magnitude(block.values, block.count));
    }
    for (int64_t i = 0; i < num_blocks; ++i) factor[i] = 1.0f / std::max(absmax[i], MIN_ABSMAX);
    for (int64_t i = 0; i < num_blocks; ++i) {
      Block<Element> block = block_at(i);
      if (!std::isfinite(block.absmax)) {
        return block.values - input + first_nonfinite(block.values, block.count);
      }
      if (block.is_ragged && task.codebook != nullptr) {
        block.absmax = std::max(block.absmax, MIN_ABSMAX);
      }
      prefetch(block.values + step, block.count * static_cast<int64_t>(sizeof(Element)));
      body(block, (block.values - input) / block_size);
    }
  }
  return -1;
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

// Codes of the codebook for absmax itself. What rounding leaves beyond 1 has the rank of 1, so that
// nothing need be clamped.
template <class Element>
inline int64_t encode_by_absmax(const QuantizeTask& task, Range range) {
  const BlocksTask& blocks = task.blocks;
  const CodebookEncoder encode(*blocks.codebook);
  alignas(64) float x[MAX_BLOCK];
  return for_blocks<Element>(blocks, range, [&](const Block<Element>& block, int64_t index) {
    uint8_t* codes = blocks.codes + index * blocks.block_size / 2;
    if (block.is_ragged) {
      scale_block(block, x);
      encode(x, block.count, 1.0f, codes);
    } else {
      encode(block.values, block.count, block.factor, codes);
    }
    task.scales[index] = block.absmax;
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
