// Multiplications and additions in registers, with nothing to read or to store: what no matrix
// product on this processor passes. multiply_adds.py compiles it for the machine that it runs on.
#include <cstdint>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

constexpr int CHAINS = 12;  // two units wait four or five cycles for each result

using Floats = float __attribute__((vector_size(VECTOR_BYTES)));

// Calls step(sum) for each chain in each round, in every thread, and returns what depends on all of
// them. Each chain starts from another value: equal ones would be computed once.
template <class Vector, class Step>
float run(int threads, int64_t rounds, float start, const Step& step) {
  float total = 0.0f;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    Vector sums[CHAINS];
    for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = Vector{} + start * chain;
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
      for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = step(sums[chain]);
    }
    for (const Vector& sum : sums) total += sum[0];
  }
  return total;
}

}  // namespace

// Each runs so many rounds of operations on `factor` in each thread; num_*_operations says how many
// a round has.
extern "C" {

int64_t num_float_operations() {
  return CHAINS * VECTOR_BYTES / sizeof(float) * 2;
}
float multiply_floats(int threads, int64_t rounds, float factor) {
  const Floats factors = Floats{} + factor;
  return run<Floats>(threads, rounds, factor, [&](Floats sum) { return sum * factors + factors; });
}

#if defined(__AVX512BF16__)
int64_t num_pair_operations() {
  return CHAINS * VECTOR_BYTES / sizeof(uint16_t) * 2;
}
float multiply_pairs(int threads, int64_t rounds, float factor) {
  const __m512bh factors = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factor), _mm512_set1_ps(factor));
  return run<__m512>(threads, rounds, factor,
                     [&](__m512 sum) { return _mm512_dpbf16_ps(sum, factors, factors); });
}
#else
int64_t num_pair_operations() {
  return 0;
}
float multiply_pairs(int, int64_t, float) {
  return 0.0f;
}
#endif

}  // extern "C"
