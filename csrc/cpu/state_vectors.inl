// 8-bit states in vectors: how those of a block are read, and how values get their codes.

// Reads LANES states at a time; `values` is room for instruction sets that read all at once.
template <bool SIGNED>
struct StateReader {
  const float* map;
  const uint8_t* codes;
  Floats absmax;

  StateReader(const StateCodec<SIGNED>& codec, const uint8_t* source, float scale, int64_t count,
              uint8_t (&padded)[STATE_BLOCK], float* /* values */)
      : map(codec.map),
        codes(padded_codes<LANES>(source, count, codec.ZERO, padded)),
        absmax(broadcast(scale)) {}

  Floats operator()(int64_t i) const {
    prefetch_line(codes, i + STATES_AHEAD);
    return look_up(map, codes + i) * absmax;
  }
};

// The codes of TOGETHER scaled values by the lines of eight regions: common/state_codec.h.
template <bool SIGNED>
struct StatePlaces {
  using Codec = StateCodec<SIGNED>;
  Table8 slope, bound;

  explicit StatePlaces(const Codec& codec)
      : slope(codec.slope), bound(reinterpret_cast<const float*>(codec.bound)) {}

  // Returns a bit for each value that has to be searched for, and perhaps for others.
  uint64_t operator()(const Floats (&scaled)[4], uint8_t* codes) const {
    Words magnitude[4], place[4], limited[4];
    for (int i = 0; i < 4; ++i) {
      magnitude[i] = reinterpret_cast<Words>(scaled[i]);
      if constexpr (SIGNED) magnitude[i] &= 0x7fffffffu;
    }
    find(magnitude, place, limited);
    if constexpr (SIGNED) {
      store_signed_codes(codes, limited, scaled);
    } else {
      store_unsigned_codes(codes, limited, scaled);
    }
    return any_near_whole(place, Codec::NEAR) ? ~uint64_t{0} : 0;
  }

 private:
  void find(const Words (&magnitude)[4], Words (&place)[4], Words (&limited)[4]) const {
    Words region[4];
    for (int i = 0; i < 4; ++i) {
      region[i] = scaled_upper_half(magnitude[i], Codec::LEAST, Codec::DECADE);
    }
    for (int i = 0; i < 4; ++i) {
      const auto last = reinterpret_cast<SignedWords>(bound[region[i]]);
      const SignedWords is_above = reinterpret_cast<SignedWords>(magnitude[i]) > last;
      region[i] -= reinterpret_cast<Words>(is_above);  // All ones: minus one.
    }
    Floats line[4];
    for (int i = 0; i < 4; ++i) {
      // Adding to its exponent doubles START once per region.
      const Words start = broadcast_word(bits_of(Codec::START)) + (region[i] << 23);
      line[i] = fused_multiply_add(reinterpret_cast<Floats>(magnitude[i]), slope[region[i]],
                                   reinterpret_cast<Floats>(start));
    }
    for (int i = 0; i < 4; ++i) {
      const auto limit =
          reinterpret_cast<SignedWords>(shift_left(broadcast_word(Codec::LIMIT), region[i]));
      const SignedWords units = __builtin_convertvector(line[i], SignedWords);
      place[i] = reinterpret_cast<Words>(units);
      limited[i] = reinterpret_cast<Words>(units < limit ? units : limit);
    }
  }
};
