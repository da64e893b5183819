// Scales of blocks of BLOCK_CODES codes, in two steps: scale = found * factor + offset. What is
// found for a block is its absmax, or looked up by its code where absmax is double-quantized.
struct BlockScales {
  const ScalesView& view;
  int shift;  // from blocks of codes to those that have a scale

  explicit BlockScales(const WeightView& weight)
      : view(weight.scales), shift(weight.block_shift - std::countr_zero(uint64_t{BLOCK_CODES})) {}

  void look_up(int64_t first, int64_t count, float* found) const {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t block = (first + i) >> shift;
      found[i] = view.codes == nullptr ? view.absmax[block] : view.map[view.codes[block]];
    }
  }
  // The codes of blocks from `first` on, where each is one that has a scale; or null.
  const uint8_t* codes_at(int64_t first) const {
    return shift == 0 && view.codes != nullptr ? view.codes + first : nullptr;
  }

  // Calls body(i, factor, offset) for i in steps of LANES from 0 to count, and from each change of
  // the factor on: what it does beyond a change is done anew.
  template <class Body>
  void for_vectors(int64_t first, int64_t count, const Body& body) const {
    const bool is_plain = view.codes == nullptr;
    const Floats offset = broadcast(is_plain ? 0.0f : view.offset);
    for (int64_t i = 0, last = count; i < count; i = last) {
      float factor = 1.0f;
      if (!is_plain) {
        const int64_t nested = (first + i) / (NESTED_BLOCK << shift);
        factor = view.nested_absmax[nested];
        last = std::min(count, (nested + 1) * (NESTED_BLOCK << shift) - first);
      }
      for (int64_t j = i; j < last; j += LANES) body(j, broadcast(factor), offset);
    }
  }
};
