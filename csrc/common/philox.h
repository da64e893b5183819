// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) and the
// dropout rule on it: element i of a mask depends on (seed, i) only, so that backward regenerates
// it.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace qlora {

constexpr int PHILOX_ROUNDS = 10;
constexpr uint32_t PHILOX_FACTOR0 = 0xD2511F53u, PHILOX_FACTOR2 = 0xCD9E8D57u;
constexpr uint32_t PHILOX_KEY_STEP0 = 0x9E3779B9u, PHILOX_KEY_STEP1 = 0xBB67AE85u;

struct Philox4x32 {
  uint32_t word[4];
};

HOST_DEVICE inline Philox4x32 philox4x32_10(Philox4x32 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    const uint64_t product0 = uint64_t{PHILOX_FACTOR0} * counter.word[0];
    const uint64_t product2 = uint64_t{PHILOX_FACTOR2} * counter.word[2];
    counter = {{static_cast<uint32_t>(product2 >> 32) ^ counter.word[1] ^ key0,
                static_cast<uint32_t>(product2),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += PHILOX_KEY_STEP0;
    key1 += PHILOX_KEY_STEP1;
  }
  return counter;
}

// One dropout mask. An element is kept iff the first Philox word of counter (i, 0, 0) is >=
// threshold.
struct Dropout {
  uint64_t seed = 0;
  uint32_t threshold = 0;  // floor(p * 2^32)
  float keep_scale = 1;    // 1 / (1 - p), in fp32

  static Dropout of(uint64_t seed, double p) {
    return {seed, static_cast<uint32_t>(p * 0x1p32), 1.0f / (1.0f - static_cast<float>(p))};
  }

  // The factor of element `index`: 0 or 1 / (1 - p).
  HOST_DEVICE float factor(uint64_t index) const {
    const Philox4x32 counter{
        {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0}};
    const uint32_t word =
        philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32))
            .word[0];
    return word >= threshold ? keep_scale : 0.0f;
  }
};

}  // namespace qlora
