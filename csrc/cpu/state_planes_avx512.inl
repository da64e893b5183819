// 8-bit states by vpermb: a table of 256 floats is four of bytes, and 64 codes are looked up in
// each.

// values[0, count) = scale * entries of the codes; whole vectors of 64.
[[gnu::noinline]] inline void look_up_planes(const uint8_t (&planes)[4][NUM_CODES8],
                                             const uint8_t* codes, float scale, int64_t count,
                                             float* values) {
  __m512i table[4][4];  // entries of 64 codes each
  for (int byte = 0; byte < 4; ++byte) {
    for (int i = 0; i < 4; ++i) table[byte][i] = _mm512_loadu_si512(planes[byte] + 64 * i);
  }
  // Interleaving bytes, then pairs of them, leaves four vectors of every fourth quarter.
  const __m512i quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512 scales = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < count; i += 64) {
    prefetch_line(codes, i + STATES_AHEAD);
    const __m512i code = _mm512_permutexvar_epi32(quarters, _mm512_loadu_si512(codes + i));
    const __mmask64 upper = _mm512_movepi8_mask(code);
    const __mmask64 odd = _mm512_movepi8_mask(_mm512_add_epi8(code, code));
    __m512i plane[4];
    for (int byte = 0; byte < 4; ++byte) {
      __m512i found = _mm512_permutexvar_epi8(code, table[byte][0]);
      found = _mm512_mask_permutexvar_epi8(found, odd, code, table[byte][1]);
      found = _mm512_mask_permutexvar_epi8(found, upper, code, table[byte][2]);
      plane[byte] = _mm512_mask_permutexvar_epi8(found, upper & odd, code, table[byte][3]);
    }
    const __m512i low[2] = {_mm512_unpacklo_epi8(plane[0], plane[1]),
                            _mm512_unpackhi_epi8(plane[0], plane[1])};
    const __m512i high[2] = {_mm512_unpacklo_epi8(plane[2], plane[3]),
                             _mm512_unpackhi_epi8(plane[2], plane[3])};
    for (int half = 0; half < 2; ++half) {
      const __m512i words[2] = {_mm512_unpacklo_epi16(low[half], high[half]),
                                _mm512_unpackhi_epi16(low[half], high[half])};
      for (int j = 0; j < 2; ++j) {
        _mm512_storeu_ps(values + i + 32 * half + 16 * j,
                         _mm512_mul_ps(reinterpret_cast<__m512>(words[j]), scales));
      }
    }
  }
}
