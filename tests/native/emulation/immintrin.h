// Stands for the compiler's immintrin.h: the AVX-512 intrinsics that csrc/cpu uses, for any x86-64,
// each as the pseudo-code of Intel's Intrinsics Guide has it.
#pragma once

#include "permutations.h"
#include "vectors.h"

// Loads, stores, constants

inline __m512 _mm512_loadu_ps(const void* source) {
  __m512 vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}
inline void _mm512_storeu_ps(void* target, __m512 vector) {
  std::memcpy(target, &vector, sizeof vector);
}
inline void _mm512_mask_storeu_ps(void* target, __mmask16 lanes, __m512 vector) {
  const emulation::Floats values(vector);
  for (int i = 0; i < 16; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    std::memcpy(static_cast<float*>(target) + i, &values[i], sizeof values[i]);
  }
}
inline void _mm512_storeu_si512(void* target, __m512i vector) {
  std::memcpy(target, &vector, sizeof vector);
}
inline __m256i _mm256_loadu_si256(const __m256i* source) {
  __m256i vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}
inline void _mm256_storeu_si256(__m256i* target, __m256i vector) {
  std::memcpy(target, &vector, sizeof vector);
}
inline __m512 _mm512_set1_ps(float value) {
  return emulation::floats([&](int) { return value; });
}
inline __m512 _mm512_setzero_ps() {
  return _mm512_set1_ps(0.0f);
}
inline __m512i _mm512_loadu_si512(const void* source) {
  __m512i vector;
  std::memcpy(&vector, source, sizeof vector);
  return vector;
}
inline __m512i _mm512_setzero_si512() {
  return __m512i{};
}
inline __m512i _mm512_set1_epi64(long long value) {
  return emulation::integers<uint64_t>([&](int) { return static_cast<uint64_t>(value); });
}
inline __m512i _mm512_set1_epi8(char value) {
  return emulation::integers<uint8_t>([&](int) { return static_cast<uint8_t>(value); });
}
inline __m512i _mm512_set1_epi32(int value) {
  return emulation::integers([&](int) { return static_cast<uint32_t>(value); });
}
inline __m512i _mm512_set1_epi16(short value) {
  return emulation::integers<uint16_t>([&](int) { return static_cast<uint16_t>(value); });
}
template <class... Lane>
__m512i _mm512_setr_epi32(Lane... lane) {
  static_assert(sizeof...(lane) == 16);
  const int lanes[] = {lane...};
  return emulation::integers([&](int i) { return static_cast<uint32_t>(lanes[i]); });
}
// The last lane comes first.
template <class... Lane>
__m512i _mm512_set_epi16(Lane... lane) {
  static_assert(sizeof...(lane) == 32);
  const int lanes[] = {lane...};
  return emulation::integers<uint16_t>([&](int i) { return static_cast<uint16_t>(lanes[31 - i]); });
}
// The upper lanes are undefined: all ones, which no result may depend on.
inline __m512i _mm512_castsi128_si512(__m128i low) {
  const emulation::Lanes<uint32_t, 16> lanes(low);
  return emulation::integers([&](int i) { return i < 4 ? lanes[i] : 0xffffffffu; });
}
inline __m256i _mm512_castsi512_si256(__m512i a) {
  const emulation::Words x(a);
  return emulation::each<uint32_t, 32, __m256i>([&](int i) { return x[i]; });
}
inline __m512 _mm512_i32gather_ps(__m512i index, const void* base, int scale) {
  const emulation::Words offsets(index);
  return emulation::floats([&](int i) {
    float value;
    const auto offset = int64_t{static_cast<int32_t>(offsets[i])} * scale;
    std::memcpy(&value, static_cast<const char*>(base) + offset, sizeof value);
    return value;
  });
}

// Floats

inline __m512 _mm512_add_ps(__m512 a, __m512 b) {
  const emulation::Floats x(a), y(b);
  return emulation::floats([&](int i) { return x[i] + y[i]; });
}
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const emulation::Floats x(a), y(b), z(c);
  return emulation::floats([&](int i) { return std::fma(x[i], y[i], z[i]); });
}
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
  const emulation::Floats x(a), y(b), z(c);
  return emulation::floats([&](int i) { return std::fma(-x[i], y[i], z[i]); });
}
// c where the mask has no bit.
inline __m512 _mm512_mask3_fmadd_ps(__m512 a, __m512 b, __m512 c, __mmask16 mask) {
  const emulation::Floats x(a), y(b), z(c);
  return emulation::floats(
      [&](int i) { return (mask >> i & 1) != 0 ? std::fma(x[i], y[i], z[i]) : z[i]; });
}
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) {
  const emulation::Floats x(a), y(b);
  return emulation::floats([&](int i) { return x[i] * y[i]; });
}
// b where one of them is no number.
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  const emulation::Floats x(a), y(b);
  return emulation::floats([&](int i) { return x[i] > y[i] ? x[i] : y[i]; });
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  static_cast<void>(predicate);  // _CMP_LT_OQ is the only one
  const emulation::Floats x(a), y(b);
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<unsigned>(x[i] < y[i]) << i;
  return static_cast<__mmask16>(mask);
}
inline __m512 _mm512_sqrt_ps(__m512 a) {
  const emulation::Floats x(a);
  return emulation::floats([&](int i) { return std::sqrt(x[i]); });
}
// Halves are added to halves until one lane is left.
inline float _mm512_reduce_add_ps(__m512 a) {
  emulation::Floats x(a);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) x[i] += x[i + width];
  }
  return x[0];
}

// Integers

inline uint32_t _mm512_reduce_max_epu32(__m512i a) {
  const emulation::Words x(a);
  return *std::max_element(x.lane, x.lane + x.COUNT);
}
inline __m512i _mm512_add_epi8(__m512i a, __m512i b) {
  const emulation::Bytes x(a), y(b);
  return emulation::integers<uint8_t>([&](int i) { return static_cast<uint8_t>(x[i] + y[i]); });
}
inline __m512i _mm512_min_epi32(__m512i a, __m512i b) {
  const emulation::Lanes<int32_t> x(a), y(b);
  return emulation::integers<int32_t>([&](int i) { return std::min(x[i], y[i]); });
}
inline __m512i _mm512_min_epu16(__m512i a, __m512i b) {
  const emulation::Halves x(a), y(b);
  return emulation::integers<uint16_t>([&](int i) { return std::min(x[i], y[i]); });
}
// Zero where the mask has no bit.
inline __m512i _mm512_maskz_max_epu8(__mmask64 mask, __m512i a, __m512i b) {
  const emulation::Bytes x(a), y(b);
  return emulation::integers<uint8_t>(
      [&](int i) { return (mask >> i & 1) != 0 ? std::max(x[i], y[i]) : uint8_t{0}; });
}
// `old` where the mask has no bit.
inline __m512i _mm512_mask_subs_epu8(__m512i old, __mmask64 mask, __m512i a, __m512i b) {
  const emulation::Bytes kept(old), x(a), y(b);
  return emulation::integers<uint8_t>([&](int i) {
    if ((mask >> i & 1) == 0) return kept[i];
    return static_cast<uint8_t>(x[i] > y[i] ? x[i] - y[i] : 0);
  });
}
inline __mmask64 _mm512_movepi8_mask(__m512i a) {
  return emulation::mask_of<__mmask64, uint8_t>(a, [](uint8_t lane) { return lane >= 128; });
}
// Where a & b has a bit, or has none.
inline __mmask64 _mm512_test_epi8_mask(__m512i a, __m512i b) {
  return emulation::mask_of<__mmask64, uint8_t>(a & b, [](uint8_t lane) { return lane != 0; });
}
inline __mmask16 _mm512_testn_epi32_mask(__m512i a, __m512i b) {
  return emulation::mask_of<__mmask16, uint32_t>(a & b, [](uint32_t lane) { return lane == 0; });
}
inline __m512i _mm512_srli_epi32(__m512i a, unsigned count) {
  const emulation::Words x(a);
  return emulation::integers([&](int i) { return count < 32 ? x[i] >> count : 0; });
}
inline __m512i _mm512_srlv_epi32(__m512i a, __m512i counts) {
  const emulation::Words x(a), n(counts);
  return emulation::integers([&](int i) { return n[i] < 32 ? x[i] >> n[i] : 0; });
}
inline __m512i _mm512_slli_epi32(__m512i a, unsigned count) {
  const emulation::Words x(a);
  return emulation::integers([&](int i) { return count < 32 ? x[i] << count : 0; });
}
inline __m512i _mm512_slli_epi64(__m512i a, unsigned count) {
  const emulation::Longs x(a);
  return emulation::integers<uint64_t>([&](int i) { return count < 64 ? x[i] << count : 0; });
}
inline __m512i _mm512_srli_epi64(__m512i a, unsigned count) {
  const emulation::Longs x(a);
  return emulation::integers<uint64_t>([&](int i) { return count < 64 ? x[i] >> count : 0; });
}
inline __m512i _mm512_mul_epu32(__m512i a, __m512i b) {
  const emulation::Longs x(a), y(b);
  return emulation::integers<uint64_t>(
      [&](int i) { return (x[i] & 0xffffffffu) * (y[i] & 0xffffffffu); });
}
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  const emulation::Words x(a), y(b);
  return emulation::integers([&](int i) { return x[i] + y[i]; });
}
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  const emulation::Lanes<int16_t> x(a), y(b);
  return emulation::integers([&](int i) {
    const int64_t sum = int64_t{x[2 * i]} * y[2 * i] + int64_t{x[2 * i + 1]} * y[2 * i + 1];
    return static_cast<uint32_t>(sum);
  });
}
inline __m512i _mm512_add_epi16(__m512i a, __m512i b) {
  const emulation::Halves x(a), y(b);
  return emulation::integers<uint16_t>([&](int i) { return static_cast<uint16_t>(x[i] + y[i]); });
}
// Bit by bit: which bit of the table, three bits say, a's the highest.
inline __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  const emulation::Words x(a), y(b), z(c);
  return emulation::integers([&](int i) {
    uint32_t result = 0;
    for (int bit = 0; bit < 32; ++bit) {
      const auto at = [&](uint32_t lane) { return lane >> bit & 1u; };
      const uint32_t from = at(x[i]) << 2 | at(y[i]) << 1 | at(z[i]);
      result |= (static_cast<uint32_t>(table) >> from & 1u) << bit;
    }
    return result;
  });
}
// Where no bit is in both.
inline __mmask32 _mm512_testn_epi16_mask(__m512i a, __m512i b) {
  const emulation::Halves x(a), y(b);
  uint32_t mask = 0;
  for (int i = 0; i < 32; ++i) mask |= static_cast<uint32_t>((x[i] & y[i]) == 0) << i;
  return mask;
}
// 1 if no bit is in either.
inline unsigned char _kortestz_mask32_u8(__mmask32 a, __mmask32 b) {
  return (a | b) == 0;
}
// A set bit takes b.
inline __m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i a, __m512i b) {
  const emulation::Words x(a), y(b);
  return emulation::integers([&](int i) { return (mask >> i & 1) != 0 ? y[i] : x[i]; });
}
inline __m512i _mm512_srlv_epi16(__m512i a, __m512i counts) {
  const emulation::Halves x(a), n(counts);
  return emulation::integers<uint16_t>(
      [&](int i) { return static_cast<uint16_t>(n[i] < 16 ? x[i] >> n[i] : 0); });
}
inline __m512i _mm512_srli_epi16(__m512i a, unsigned count) {
  const emulation::Halves x(a);
  return emulation::integers<uint16_t>(
      [&](int i) { return static_cast<uint16_t>(count < 16 ? x[i] >> count : 0); });
}

// bf16: denormals count as zero, going in and coming out; always to nearest, ties to even

// The low half is b's.
inline __m512bh _mm512_cvtne2ps_pbh(__m512 a, __m512 b) {
  const emulation::Floats x(a), y(b);
  return emulation::each<uint16_t, 64, __m512bh>(
      [&](int i) { return emulation::float_to_bf16(i < 16 ? y[i] : x[i - 16]); });
}
// Two fused multiply-adds, of the upper halves first.
inline __m512 _mm512_dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
  const emulation::Floats z(sums);
  const emulation::Halves x(a), y(b);
  return emulation::floats([&](int i) {
    float sum = z[i];
    for (int j : {2 * i + 1, 2 * i}) {
      const float left = emulation::bf16_to_float(x[j]), right = emulation::bf16_to_float(y[j]);
      sum = emulation::flushed(std::fma(left, right, emulation::flushed(sum)));
    }
    return sum;
  });
}

// Conversions

inline __m512i _mm512_cvtepu8_epi32(__m128i a) {
  const emulation::Lanes<uint8_t, 16> x(a);
  return emulation::integers([&](int i) { return uint32_t{x[i]}; });
}
inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  const emulation::Lanes<int8_t, 16> x(a);
  return emulation::integers([&](int i) { return static_cast<uint32_t>(int32_t{x[i]}); });
}
inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  const emulation::Lanes<int32_t> x(a);
  return emulation::floats([&](int i) { return static_cast<float>(x[i]); });
}
// Truncated; what is out of range, or no number, becomes the least.
inline __m512i _mm512_cvttps_epi32(__m512 a) {
  const emulation::Floats x(a);
  return emulation::integers<int32_t>([&](int i) {
    const bool is_in_range = x[i] >= -0x1p31f && x[i] < 0x1p31f;
    return is_in_range ? static_cast<int32_t>(x[i]) : std::numeric_limits<int32_t>::min();
  });
}
// The lower bits, not saturated.
inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  const emulation::Words x(a);
  return emulation::each<uint16_t, 32, __m256i>([&](int i) { return static_cast<uint16_t>(x[i]); });
}
inline __m128i _mm512_cvtepi32_epi8(__m512i a) {
  const emulation::Words x(a);
  return emulation::each<uint8_t, 16, __m128i>([&](int i) { return static_cast<uint8_t>(x[i]); });
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
  const emulation::Lanes<uint16_t, 32> x(a);
  return emulation::floats([&](int i) { return emulation::half_to_float(x[i]); });
}
inline __m256i _mm512_cvtps_ph(__m512 a, int) {
  const emulation::Floats x(a);
  return emulation::each<uint16_t, 32, __m256i>(
      [&](int i) { return emulation::float_to_half(x[i]); });
}
