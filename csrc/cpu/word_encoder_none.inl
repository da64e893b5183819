// For instruction sets that rank floats alone.
struct WordEncoder {
  explicit WordEncoder(const Codebook&) {}

  template <class Run, class ByFloats>
  int64_t operator()(const Run&, uint8_t*, const ByFloats&) const {
    return 0;
  }
};
