// Intrinsics that move lanes; immintrin.h beside has the others.
#pragma once

#include "vectors.h"

// Permutations: the index comes first and only its low bits count.

inline __m512 _mm512_permutexvar_ps(__m512i index, __m512 a) {
  const emulation::Words from(index);
  const emulation::Floats x(a);
  return emulation::floats([&](int i) { return x[static_cast<int>(from[i] & 15)]; });
}
inline __m512i _mm512_permutexvar_epi32(__m512i index, __m512i a) {
  const emulation::Words from(index), x(a);
  return emulation::integers([&](int i) { return x[static_cast<int>(from[i] & 15)]; });
}
// The fifth bit of an index chooses b.
inline __m512i _mm512_permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
  const emulation::Words from(index), x(a), y(b);
  return emulation::integers([&](int i) {
    const int at = static_cast<int>(from[i] & 15);
    return (from[i] & 16) == 0 ? x[at] : y[at];
  });
}
// `old` where the mask has no bit.
inline __m512i _mm512_mask_permutexvar_epi8(__m512i old, __mmask64 mask, __m512i index, __m512i a) {
  const emulation::Bytes kept(old), from(index), x(a);
  return emulation::integers<uint8_t>(
      [&](int i) { return (mask >> i & 1) != 0 ? x[from[i] & 63] : kept[i]; });
}
inline __m512i _mm512_permutexvar_epi8(__m512i index, __m512i a) {
  return _mm512_mask_permutexvar_epi8(a, ~__mmask64{0}, index, a);
}
inline __m512i _mm512_permutexvar_epi16(__m512i index, __m512i a) {
  const emulation::Halves from(index), x(a);
  return emulation::integers<uint16_t>([&](int i) { return x[from[i] & 31]; });
}

// Within each quarter, the same place in all; a place with its upper bit is a zero.
inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i places) {
  const emulation::Lanes<uint8_t> x(a), from(places);
  return emulation::integers<uint8_t>(
      [&](int i) { return from[i] >> 7 != 0 ? uint8_t{0} : x[i / 16 * 16 + (from[i] & 15)]; });
}
// Two lanes of a and two of b, whichever two bits each say: in each quarter, or whole quarters.
inline __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int places) {
  const emulation::Floats x(a), y(b);
  return emulation::floats([&](int i) {
    const int from = i / 4 * 4 + (places >> 2 * (i % 4) & 3);
    return i % 4 < 2 ? x[from] : y[from];
  });
}
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int places) {
  const emulation::Words x(a), y(b);
  return emulation::integers([&](int i) {
    const int from = (places >> 2 * (i / 4) & 3) * 4 + i % 4;
    return i / 4 < 2 ? x[from] : y[from];
  });
}

// The sixth bit of an index says whether b's lane is meant.
inline __m512i _mm512_permutex2var_epi16(__m512i a, __m512i index, __m512i b) {
  const emulation::Halves x(a), from(index), y(b);
  return emulation::integers<uint16_t>(
      [&](int i) { return (from[i] & 32) != 0 ? y[from[i] & 31] : x[from[i] & 31]; });
}

// Within each quarter the lanes of a and b in turn, of its lower or its upper half.
template <class Lane>
__m512i emulated_unpack(__m512i a, __m512i b, bool high) {
  const emulation::Lanes<Lane> x(a), y(b);
  constexpr int QUARTER = emulation::Lanes<Lane>::COUNT / 4;
  return emulation::integers<Lane>([&](int i) {
    const int from = i / QUARTER * QUARTER + (high ? QUARTER / 2 : 0) + i % QUARTER / 2;
    return i % 2 == 0 ? x[from] : y[from];
  });
}
inline __m512i _mm512_unpacklo_epi8(__m512i a, __m512i b) {
  return emulated_unpack<uint8_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi8(__m512i a, __m512i b) {
  return emulated_unpack<uint8_t>(a, b, true);
}
inline __m512i _mm512_unpacklo_epi16(__m512i a, __m512i b) {
  return emulated_unpack<uint16_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi16(__m512i a, __m512i b) {
  return emulated_unpack<uint16_t>(a, b, true);
}
inline __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return emulated_unpack<uint32_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return emulated_unpack<uint32_t>(a, b, true);
}
inline __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) {
  return emulated_unpack<uint64_t>(a, b, false);
}
inline __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) {
  return emulated_unpack<uint64_t>(a, b, true);
}
inline __m512i _mm512_packs_epi16(__m512i a, __m512i b) {
  return emulation::packed<int8_t, int16_t>(a, b);
}
inline __m512i _mm512_packus_epi16(__m512i a, __m512i b) {
  return emulation::packed<uint8_t, int16_t>(a, b);
}
inline __m512i _mm512_packs_epi32(__m512i a, __m512i b) {
  return emulation::packed<int16_t, int32_t>(a, b);
}
inline __m512i _mm512_packus_epi32(__m512i a, __m512i b) {
  return emulation::packed<uint16_t, int32_t>(a, b);
}
inline __m512i _mm512_inserti32x4(__m512i a, __m128i b, int quarter) {
  const emulation::Words x(a);
  const emulation::Lanes<uint32_t, 16> y(b);
  return emulation::integers([&](int i) { return i / 4 == quarter ? y[i % 4] : x[i]; });
}
inline __m512i _mm512_broadcast_i64x4(__m256i a) {
  const emulation::Lanes<uint32_t, 32> x(a);
  return emulation::integers([&](int i) { return x[i % 8]; });
}
inline __m512i _mm512_broadcast_i32x4(__m128i a) {
  const emulation::Lanes<uint32_t, 16> x(a);
  return emulation::integers([&](int i) { return x[i % 4]; });
}
