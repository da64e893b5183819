// quantize: block by block, a block lying in L1 as fp32 between the search for its absmax and
// coding.

constexpr int64_t MAX_BLOCK = 4096;

// The largest |x| of a block, or a bit pattern above infinity's where it has a NaN: magnitudes of
// floats compare like the integers that their bits are.
inline uint32_t max_magnitude(const float* values, int64_t count) {
  Words largest = broadcast_word(0);
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    const Words magnitude = reinterpret_cast<Words>(load(values + i)) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  uint32_t result = 0;
  for (int lane = 0; lane < LANES; ++lane) result = std::max<uint32_t>(result, largest[lane]);
  for (; i < count; ++i) result = std::max(result, bits_of(values[i]) & 0x7fffffffu);
  return result;
}

constexpr uint32_t INFINITY_BITS = 0x7f800000u;

inline int64_t first_nonfinite(const float* values, int64_t count) {
  int64_t i = 0;
  while (i < count && (bits_of(values[i]) & INFINITY_BITS) != INFINITY_BITS) ++i;
  return i;
}

struct Block {
  const float* values;
  int64_t count;
  float absmax;
  bool is_ragged;  // shorter than the others: bitsandbytes divides there, where it else multiplies
};

// x[0, count) = clamp(value * (1 / absmax)), or clamp(value / absmax).
inline void scale_block(const Block& block, float* x) {
  const float factor = 1.0f / std::max(block.absmax, MIN_ABSMAX);
  const Floats one = broadcast(1.0f);
  int64_t i = 0;
  for (; i + LANES <= block.count; i += LANES) {
    const Floats value = load(block.values + i);
    Floats scaled = block.is_ragged ? value / broadcast(block.absmax) : value * broadcast(factor);
    scaled = scaled > one ? one : scaled;
    store(x + i, scaled < -one ? -one : scaled);
  }
  for (; i < block.count; ++i) {
    const float value = block.values[i];
    x[i] = clamp_to_one(block.is_ragged ? value / block.absmax : value * factor);
  }
}

// codes[0, count) = codebook code of x / ratio.
inline void encode_block4(const Codebook& book, const Ranker& ranker, const float* x, int64_t count,
                          float ratio, uint8_t* codes) {
  const float inverse = inverse_of(ratio);
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    store_bytes(codes + i, ranker(load(x + i) * broadcast(inverse)));
  }
  if (!book.is_sorted) {
    for (int64_t j = 0; j < i; ++j) codes[j] = book.order[codes[j]];
  }
  for (; i < count; ++i) codes[i] = book.encode(x[i] * inverse);
}

inline void encode_block8(const Block& block, uint8_t* codes) {
  const float step = int8_step(block.absmax);
  for (int64_t i = 0; i < block.count; ++i) {
    codes[i] = static_cast<uint8_t>(encode_int8(block.values[i], step));
  }
}

// Two codes per byte. Every block but the last has an even size; an odd end is padded with zero's
// code.
inline void pack_codes(const Codebook& book, const uint8_t* codes, int64_t count, uint8_t* packed) {
  for (int64_t i = 0; i < count / 2; ++i) {
    packed[i] = pack_nibbles(codes[2 * i], codes[2 * i + 1]);
  }
  if (count % 2 != 0) packed[count / 2] = pack_nibbles(codes[count - 1], book.encode(0.0f));
}

// Calls body(block, index of its scale) for each block in the range, its values as fp32; returns
// the index of the first value that is not finite (and stops there), or -1.
template <class Element, class Body>
inline int64_t for_blocks(const BlocksTask& task, Range range, const Body& body) {
  const auto* input = static_cast<const Element*>(task.input);
  alignas(64) float values[MAX_BLOCK];
  for (int64_t first = range.first; first < range.last; first += task.block_size) {
    const int64_t count = std::min(task.block_size, range.last - first);
    convert(values, input + first, count);
    const uint32_t magnitude = max_magnitude(values, count);
    if (magnitude >= INFINITY_BITS) return first + first_nonfinite(values, count);
    Block block{values, count, float_of(magnitude), count < task.block_size};
    if (block.is_ragged && task.codebook != nullptr) {
      block.absmax = std::max(block.absmax, MIN_ABSMAX);
    }
    body(block, first / task.block_size);
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

// The same for blocks that get codebook codes: body(search, scaled, block, index) returns the ratio
// of the scale to absmax, and its codes are written.
template <class Element, class Body>
inline int64_t encode_blocks4(const BlocksTask& task, Range range, const Body& body) {
  const Codebook& book = *task.codebook;
  const Ranker ranker(book.thresholds);
  const ScaleSearch search{book, ranker};
  alignas(64) float x[MAX_BLOCK], importance[MAX_BLOCK];
  uint8_t codes[MAX_BLOCK];
  return for_blocks<Element>(task, range, [&](const Block& block, int64_t index) {
    scale_block(block, x);
    const int64_t first = index * task.block_size;
    const ScaledBlock scaled{x, importance_of(task, first, block.count, importance), block.count};
    const float ratio = body(search, scaled, block, index);
    encode_block4(book, ranker, x, block.count, ratio, codes);
    pack_codes(book, codes, block.count, task.codes + first / 2);
  });
}

template <class Element>
inline int64_t quantize_range(const QuantizeTask& task, Range range) {
  const BlocksTask& blocks = task.blocks;
  if (blocks.codebook == nullptr) {
    return for_blocks<Element>(blocks, range, [&](const Block& block, int64_t index) {
      encode_block8(block, blocks.codes + index * blocks.block_size);
      task.scales[index] = block.absmax;
    });
  }
  return encode_blocks4<Element>(
      blocks, range,
      [&](const ScaleSearch& search, const ScaledBlock& scaled, const Block& block, int64_t index) {
        float ratio = 1.0f;
        if (!task.ratios.empty()) ratio = search.best_ratio(scaled, block.absmax, task.ratios);
        task.scales[index] = ratio * block.absmax;
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
