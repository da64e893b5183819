// What words are of values: whole numbers of 16 bits,
//
//   word = round(value * factor * units),  and of a threshold round(threshold * units)
//
// Rounding takes a value across a threshold only within one unit: the threshold's own word is that
// of values on both sides, and where it is found floats must say.

constexpr float MOST_SCALED = 0x1p120f;  // factor * units: infinity is far

// Whole numbers in the lower half of each lane; `factor` is the value's times the units.
inline Words whole(Floats values, Floats factor) {
  return reinterpret_cast<Words>(fused_multiply_add(values, factor, broadcast(0x1.8p23f)));
}

// Units by which all thresholds are words whose upper byte may be one more, none of them so near
// the middle of two that rounding decides which; or 0. Half of them would suit no better than all.
inline float units_for(const float (&thresholds)[NUM_CODES - 1]) {
  constexpr float MOST_UNITS = 32000, LEAST_UNITS = 16000;
  for (float units = MOST_UNITS; units >= LEAST_UNITS; --units) {
    const bool suits = std::all_of(thresholds, thresholds + NUM_CODES - 1, [&](float threshold) {
      const float word = threshold * units;
      return std::abs(word) <= MOST_UNITS && std::abs(word - std::nearbyint(word)) < 0.45f;
    });
    if (suits) return units;
  }
  return 0.0f;
}
