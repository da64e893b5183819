// Whole numbers of 15 bits instead of floats, where values have 16 bits themselves: each block of x
// has a scale, so that rounding errs by less than 2^-14 of the block's largest value.

// words[code] * step = the codebook's values; returns the step.
inline float words_of_codebook(const Codebook& codebook, int16_t (&words)[NUM_CODES]) {
  float largest = 0.0f;
  for (float value : codebook.values) largest = std::max(largest, std::abs(value));
  const float step = largest / LARGEST_WORD;
  for (int i = 0; i < NUM_CODES; ++i) {
    words[i] = static_cast<int16_t>(std::lrint(codebook.values[i] / step));
  }
  return step;
}

// The bits of the largest magnitude of a block; of NaN and infinity above all others.
inline uint32_t largest_magnitude(const float* block) {
  SignedWords largest{};
  for (int64_t i = 0; i < BLOCK_CODES; i += LANES) {
    const auto magnitude =
        reinterpret_cast<SignedWords>(reinterpret_cast<Words>(load(block + i)) & 0x7fffffffu);
    largest = magnitude > largest ? magnitude : largest;
  }
  int32_t lanes[LANES];
  std::memcpy(lanes, &largest, sizeof lanes);
  return static_cast<uint32_t>(*std::max_element(lanes, lanes + LANES));
}

// Below this a word is rounded more coarsely than the value of x was that it stands for.
inline float least_fine_word(ElementType type) {
  return type == ElementType::bfloat16 ? 0x1p7f : 0x1p10f;
}

constexpr float NO_WORDS = -1.0f;

// A block as words in the places where WordBlocks reads them, of as many as it multiplies together
// the one with this number. Returns its scale; or NO_WORDS and places zeros where words cannot
// stand for it: its largest value leaves sums of words out of the range of floats, or half of it is
// so much smaller that its words are below `fine`. What the largest adds to y may be nothing, if it
// meets weights near zero.
inline float place_words(const float* block, float fine, int64_t number, int16_t* words) {
  constexpr float SMALLEST = 1e-20f, LARGEST = 1e20f;  // not NaN or infinity either
  constexpr float TO_WHOLE = 0x1.8p23f;  // a sum with it has whole numbers in its lowest bits
  const float largest = float_of(largest_magnitude(block));
  const auto without_words = [&] {
    for (int64_t i = 0; i < BLOCK_CODES; ++i) words[WordBlocks::place(number, i)] = 0;
    return NO_WORDS;
  };
  if (largest != 0.0f && !(largest >= SMALLEST && largest <= LARGEST)) return without_words();
  const Floats inverse = broadcast(largest > 0.0f ? LARGEST_WORD / largest : 0.0f);
  uint32_t rounded[BLOCK_CODES];
  SignedWords coarse{};  // minus their number
  for (int64_t i = 0; i < BLOCK_CODES; i += LANES) {
    const Floats value = load(block + i) * inverse, sum = value + broadcast(TO_WHOLE);
    std::memcpy(rounded + i, &sum, sizeof sum);
    coarse += (value < fine) & (value > -fine) & (value != 0.0f);
  }
  int32_t lanes[LANES];
  std::memcpy(lanes, &coarse, sizeof lanes);
  if (-2 * std::accumulate(lanes, lanes + LANES, 0) > BLOCK_CODES) return without_words();
#pragma GCC unroll 64
  for (int64_t i = 0; i < BLOCK_CODES; ++i) {
    words[WordBlocks::place(number, i)] = static_cast<int16_t>(rounded[i] & 0xffffu);
  }
  return largest / LARGEST_WORD;
}
