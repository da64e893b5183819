// Codes to values: codebook[code] * absmax, or int8 * (absmax / 127), one rounding each, and one
// more to a narrower type.

// Stores TOGETHER values of a block.
template <class Table, class Element>
struct ScaledVectors {
  const Table& table;
  float scale;

  void operator()(const uint8_t* codes, Element* target) const {
    Floats values[4];
    table(codes, values);
    for (int i = 0; i < 4; ++i) store(target + i * LANES, values[i] * broadcast(scale));
  }
};

// The same, where a table knows a shorter way for the element type.
template <class Element, class Table>
inline auto scaled(const Table& table, float scale) {
  if constexpr (requires { table.template scaled<Element>(scale); }) {
    return table.template scaled<Element>(scale);
  } else {
    return ScaledVectors<Table, Element>{table, scale};
  }
}

// LANES consecutive unscaled values, from registers that hold the codebook, or what looks up
// TOGETHER of them. Codes must start a byte.
struct NibbleDecoder {
  static constexpr int VECTOR_BYTES = LANES / 2;
  Table16 table;
  CodebookTable vectors;

  explicit NibbleDecoder(const WeightView& weight)
      : table(weight.codebook->values), vectors(weight.codebook->values) {}
  Floats operator()(const uint8_t* codes) const { return table[consecutive_nibbles(codes)]; }
  const CodebookTable& together() const { return vectors; }
};

struct Int8Decoder {
  static constexpr int VECTOR_BYTES = LANES;

  explicit Int8Decoder(const WeightView&) {}
  Floats operator()(const uint8_t* codes) const {
    return consecutive_int8(reinterpret_cast<const int8_t*>(codes));
  }
  void operator()(const uint8_t* codes, Floats (&values)[4]) const {
    for (int i = 0; i < 4; ++i) values[i] = (*this)(codes + i * VECTOR_BYTES);
  }
  const Int8Decoder& together() const { return *this; }
};

// Calls body with the decoder of the weight's format.
template <class Body>
inline void with_decoder(const WeightView& weight, const Body& body) {
  if (weight.codebook != nullptr) return body(NibbleDecoder(weight));
  body(Int8Decoder(weight));
}

// The byte that holds the code of the flat index `first`, and one value of any alignment.
template <class Decoder>
inline const uint8_t* codes_at(const WeightView& weight, int64_t first) {
  return weight.codes + (Decoder::VECTOR_BYTES == LANES ? first : first >> 1);
}

inline float decode_one(const WeightView& weight, int64_t index) {
  if (weight.codebook != nullptr) return weight.codebook->values[nibble_at(weight.codes, index)];
  return static_cast<float>(static_cast<int8_t>(weight.codes[index]));
}

// How many values from `first` on, at most `count`, lie in its block.
inline int64_t run_in_block(const WeightView& weight, int64_t first, int64_t count) {
  return std::min(count, weight.block_size() - (first & (weight.block_size() - 1)));
}

// Decodes `count` consecutive values of one block. Odd starts and tails go value by value.
template <class Decoder, class Element>
inline void decode_run(const WeightView& weight, const Decoder& decoder, int64_t first,
                       int64_t count, Element* target) {
  const float scale = weight.scale_at(first);
  const auto one = [&](int64_t i) { return from_float<Element>(decode_one(weight, i) * scale); };
  const int64_t last = first + count;
  if (first % 2 != 0 && first < last) *target++ = one(first++);
  const uint8_t* codes = codes_at<Decoder>(weight, first);
  if (first + TOGETHER <= last) {
    const auto store_together = scaled<Element>(decoder.together(), scale);
    for (; first + TOGETHER <= last; first += TOGETHER, codes += 4 * Decoder::VECTOR_BYTES) {
      store_together(codes, target);
      target += TOGETHER;
    }
  }
  for (; first + LANES <= last; first += LANES, target += LANES, codes += Decoder::VECTOR_BYTES) {
    store(target, decoder(codes) * broadcast(scale));
  }
  for (; first < last; ++first) *target++ = one(first);
}

// Decodes values [first, first + count) of the flattened weight, whatever blocks they lie in.
template <class Element>
inline void decode(const WeightView& weight, int64_t first, int64_t count, Element* target) {
  with_decoder(weight, [&](const auto& decoder) {
    for (int64_t done = 0, run; done < count; done += run) {
      run = run_in_block(weight, first + done, count - done);
      decode_run(weight, decoder, first + done, run, target + done);
    }
  });
}
