// Codes to fp32 values: value = codebook[code] * absmax, or int8 * (absmax / 127), one rounding
// each.

// Decodes `count` consecutive values of one block, from the flat index `first` on, unscaled values
// being looked up in registers. Odd starts and tails go value by value.
inline void decode_nibbles(const WeightView& weight, const Table16& table, int64_t first,
                           int64_t count, float* target) {
  const float scale = weight.scale_at(first);
  const float* values = weight.codebook->values;
  const int64_t last = first + count;
  if (first % 2 != 0 && first < last) {
    *target++ = values[nibble_at(weight.codes, first)] * scale;
    ++first;
  }
  const Floats scales = broadcast(scale);
  for (; first + LANES <= last; first += LANES, target += LANES) {
    store(target, table[consecutive_nibbles(weight.codes + first / 2)] * scales);
  }
  for (; first < last; ++first) *target++ = values[nibble_at(weight.codes, first)] * scale;
}

inline void decode_int8(const WeightView& weight, int64_t first, int64_t count, float* target) {
  const float scale = weight.scale_at(first);
  const auto* codes = reinterpret_cast<const int8_t*>(weight.codes) + first;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    store(target + i, consecutive_int8(codes + i) * broadcast(scale));
  }
  for (; i < count; ++i) target[i] = static_cast<float>(codes[i]) * scale;
}

// The register-resident part of a codebook; int8 weights have none.
inline Table16 table_of(const WeightView& weight) {
  static const float unused[NUM_CODES] = {};
  return Table16(weight.codebook != nullptr ? weight.codebook->values : unused);
}

// Decodes values [first, first + count) of the flattened weight, whatever blocks they lie in.
inline void decode(const WeightView& weight, const Table16& table, int64_t first, int64_t count,
                   float* target) {
  while (count > 0) {
    const int64_t to_boundary = weight.block_size() - (first & (weight.block_size() - 1));
    const int64_t run = std::min(count, to_boundary);
    if (weight.codebook != nullptr) {
      decode_nibbles(weight, table, first, run, target);
    } else {
      decode_int8(weight, first, run, target);
    }
    first += run;
    target += run;
    count -= run;
  }
}
