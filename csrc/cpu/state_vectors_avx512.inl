// 8-bit states in vectors: how those of a block are read, and how values get their codes.

// All of a block are read before any is updated: a gather beside divisions and a root takes twice
// the time of both. The values lie where updated ones will, which is in the caller's memory.
template <bool SIGNED>
struct StateReader {
  const float* values;

  StateReader(const StateCodec<SIGNED>& codec, const uint8_t* source, float scale, int64_t count,
              uint8_t (&padded)[STATE_BLOCK], float* target)
      : values(target) {
    const uint8_t* codes = padded_codes<TOGETHER>(source, count, codec.ZERO, padded);
    if (has_vbmi()) {
      look_up_planes(codec.planes, codes, scale, count, target);
    } else {
      for (int64_t i = 0; i < count; i += LANES) {
        store(target + i, look_up(codec.map, codes + i) * scale);
      }
    }
  }

  Floats operator()(int64_t i) const { return load(values + i); }
};

// 32 words that are looked up by the low five bits of each lane; the other bits are ignored.
struct Table32 {
  __m512i low, high;

  explicit Table32(const void* source)
      : low(_mm512_loadu_si512(source)),
        high(_mm512_loadu_si512(static_cast<const uint8_t*>(source) + sizeof low)) {}

  __m512i operator[](__m512i index) const { return _mm512_permutex2var_epi32(low, index, high); }
};

// The lanes of four vectors as the bytes of one, saturated, in the order that packing leaves.
inline __m512i packed_signed(const __m512i (&lanes)[4]) {
  return _mm512_packs_epi16(_mm512_packs_epi32(lanes[0], lanes[1]),
                            _mm512_packs_epi32(lanes[2], lanes[3]));
}
inline __m512i packed(const __m512i (&lanes)[4]) {
  return _mm512_packus_epi16(_mm512_packus_epi32(lanes[0], lanes[1]),
                             _mm512_packus_epi32(lanes[2], lanes[3]));
}
inline void store_packed(uint8_t* target, __m512i bytes) {
  const __m512i place = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(target, _mm512_permutexvar_epi32(place, bytes));
}

// The codes of 64 scaled values by the lines of 32 powers of two: common/state_codec.h.
template <bool SIGNED>
struct StatePlaces {
  using Codec = StateCodec<SIGNED>;
  Table32 lift, slope, start, limit;

  explicit StatePlaces(const Codec& codec)
      : lift(codec.octaves.lift),
        slope(codec.octaves.slope),
        start(codec.octaves.start),
        limit(codec.octaves.limit) {}

  // Returns a bit for each value that has to be searched for.
  uint64_t operator()(const Floats (&scaled)[4], uint8_t* codes) const {
    __m512i units[4], limited[4], bits[4];
    for (int i = 0; i < 4; ++i) {
      bits[i] = reinterpret_cast<__m512i>(scaled[i]);
      const Words magnitude = reinterpret_cast<Words>(scaled[i]) & (SIGNED ? 0x7fffffffu : ~0u);
      const auto value = reinterpret_cast<__m512>(magnitude);
      // In this order, that what is no number stays so.
      const __m512 least = _mm512_set1_ps(StateOctaves::LEAST);
      const __m512i bounded = reinterpret_cast<__m512i>(_mm512_max_ps(least, value));
      const __m512i lifted = _mm512_add_epi32(bounded, lift[_mm512_srli_epi32(bounded, 23)]);
      const __m512i octave = _mm512_srli_epi32(lifted, 23);
      units[i] = _mm512_cvttps_epi32(_mm512_fmadd_ps(value, reinterpret_cast<__m512>(slope[octave]),
                                                     reinterpret_cast<__m512>(start[octave])));
      limited[i] = _mm512_srli_epi32(_mm512_min_epi32(units[i], limit[octave]), Codec::SHIFT);
    }
    const __m512i bytes = packed(limited), signs = packed_signed(bits);
    if constexpr (SIGNED) {
      const __m512i zero = _mm512_set1_epi8(Codec::ZERO);
      store_packed(codes, _mm512_mask_subs_epu8(_mm512_add_epi8(zero, bytes),
                                                _mm512_movepi8_mask(signs), zero, bytes));
    } else {
      store_packed(codes, _mm512_maskz_max_epu8(_mm512_test_epi8_mask(signs, signs), bytes,
                                                _mm512_set1_epi8(1)));
    }
    const __m512i least = _mm512_min_epu16(_mm512_min_epu16(units[0], units[1]),
                                           _mm512_min_epu16(units[2], units[3]));
    if (near(least) == 0) [[likely]]
      return 0;
    uint64_t found = 0;
    for (int i = 4; i-- > 0;) found = found << LANES | near(units[i]);
    return found;
  }

 private:
  // Lanes whose lower half is below 2 NEAR, a power of two.
  static __mmask16 near(__m512i units) {
    constexpr int UPPER = (1 << Codec::SHIFT) - 2 * static_cast<int>(Codec::NEAR);
    return _mm512_testn_epi32_mask(units, _mm512_set1_epi32(UPPER));
  }
};
