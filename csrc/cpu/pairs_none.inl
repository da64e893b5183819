// For instruction sets that do not multiply pairs of bf16 values: nothing of this is called.

constexpr bool multiplies_pairs() {
  return false;
}
inline void pair_rows(float*, int64_t) {}
template <int HEIGHT>
inline void multiply_paired_tile(const float*, const float*, int64_t, float*) {}
