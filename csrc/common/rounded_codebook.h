// A codebook in bf16, for products whose factors are bf16 and whose scale comes after their sum:
// value = rounded value * unit. Of the multiples of the codebook in one octave that one is rounded
// which errs least; so NF4 errs by half of what its values themselves would, and FP4 by nothing.
#pragma once

#include "element.h"
#include "nf4.h"

namespace qlora {

struct RoundedCodebook {
  BFloat16 values[NUM_CODES];
  float unit;

  static RoundedCodebook of(const float* values) {
    constexpr int NUM_TRIED = 4096;
    RoundedCodebook best{};
    double least = 0;
    for (int i = 0; i < NUM_TRIED; ++i) {
      const RoundedCodebook tried = times(values, 1 + static_cast<double>(i) / NUM_TRIED);
      const double error = tried.error(values);
      if (i == 0 || error < least) {
        least = error;
        best = tried;
      }
    }
    return best;
  }

 private:
  // The unit is that of least squares, so that products have no bias.
  static RoundedCodebook times(const float* values, double factor) {
    RoundedCodebook result{};
    double product = 0, square = 0;
    for (int i = 0; i < NUM_CODES; ++i) {
      const double value = static_cast<double>(values[i]);
      result.values[i] = from_float<BFloat16>(static_cast<float>(value * factor));
      const double rounded = static_cast<double>(to_float(result.values[i]));
      product += rounded * value;
      square += rounded * rounded;
    }
    result.unit = static_cast<float>(square > 0 ? product / square : 1);
    return result;
  }

  double error(const float* values) const {
    double sum = 0;
    for (int i = 0; i < NUM_CODES; ++i) {
      const double rounded = static_cast<double>(to_float(this->values[i]));
      const double difference =
          rounded * static_cast<double>(unit) - static_cast<double>(values[i]);
      sum += difference * difference;
    }
    return sum;
  }
};

}  // namespace qlora
