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

// codes[0, count) = codebook code of clamp(value * (1 / absmax)), or of clamp(value / absmax).
inline void encode_block4(const Codebook& book, const Ranker& ranker, const Block& block,
                          uint8_t* codes) {
  const float factor = 1.0f / std::max(block.absmax, MIN_ABSMAX);
  const Floats one = broadcast(1.0f);
  int64_t i = 0;
  for (; i + LANES <= block.count; i += LANES) {
    const Floats value = load(block.values + i);
    Floats scaled = block.is_ragged ? value / broadcast(block.absmax) : value * broadcast(factor);
    scaled = scaled > one ? one : scaled;
    scaled = scaled < -one ? -one : scaled;
    store_bytes(codes + i, ranker(scaled));
  }
  if (!book.is_sorted) {
    for (int64_t j = 0; j < i; ++j) codes[j] = book.order[codes[j]];
  }
  for (; i < block.count; ++i) {
    const float value = block.values[i];
    codes[i] = book.encode(clamp_to_one(block.is_ragged ? value / block.absmax : value * factor));
  }
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

// Returns the index of the first value that is not finite (and stops there), or -1.
template <class Element>
inline int64_t quantize_range(const QuantizeTask& task, Range range) {
  const auto* input = static_cast<const Element*>(task.input);
  const Codebook* book = task.codebook;
  static const float unused[NUM_CODES - 1] = {};
  const Ranker ranker(book != nullptr ? book->thresholds : unused);
  alignas(64) float values[MAX_BLOCK];
  uint8_t codes[MAX_BLOCK];
  for (int64_t first = range.first; first < range.last; first += task.block_size) {
    const int64_t count = std::min(task.block_size, range.last - first);
    convert(values, input + first, count);
    const uint32_t magnitude = max_magnitude(values, count);
    if (magnitude >= INFINITY_BITS) return first + first_nonfinite(values, count);
    Block block{values, count, float_of(magnitude), count < task.block_size};
    if (book != nullptr) {
      if (block.is_ragged) block.absmax = std::max(block.absmax, MIN_ABSMAX);
      encode_block4(*book, ranker, block, codes);
      pack_codes(*book, codes, count, task.codes + first / 2);
    } else {
      encode_block8(block, task.codes + first);
    }
    task.absmax[first / task.block_size] = block.absmax;
  }
  return -1;
}

inline int64_t quantize(const QuantizeTask& task, int num_threads) {
  std::atomic<int64_t> first_bad{INT64_MAX};
  parallel(threads_for(task.size, num_threads), [&](const Team& team) {
    const Range range = team.share_of(task.size, task.block_size);
    int64_t bad = -1;
    dispatch(task.type, [&](auto* tag) {
      bad = quantize_range<std::remove_pointer_t<decltype(tag)>>(task, range);
    });
    int64_t seen = first_bad.load();
    while (bad >= 0 && bad < seen && !first_bad.compare_exchange_weak(seen, bad)) {
    }
  });
  return first_bad == INT64_MAX ? -1 : first_bad.load();
}

// Double quantization of block scales: centred on `offset`, 256 to a nested block.
inline void quantize_scales(const ScalesTask& task, int num_threads) {
  parallel(threads_for(task.size * 16, num_threads), [&](const Team& team) {
    const Range range = team.share_of(task.size, NESTED_BLOCK);
    for (int64_t first = range.first; first < range.last; first += NESTED_BLOCK) {
      const int64_t count = std::min(NESTED_BLOCK, range.last - first);
      float centred[NESTED_BLOCK];
      for (int64_t i = 0; i < count; ++i) centred[i] = task.absmax[first + i] - task.offset;
      const float nested = float_of(max_magnitude(centred, count));
      for (int64_t i = 0; i < count; ++i) {
        const float scaled = nested > 0.0f ? centred[i] / nested : 0.0f;
        task.codes[first + i] = nearest_code8(task.map, scaled);
      }
      task.nested_absmax[first / NESTED_BLOCK] = nested;
    }
  });
}
