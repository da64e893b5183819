// AdamW's formula, and what a segment is made of: known when compiling, or decided as the loop
// goes.
#pragma once

#include <cmath>
#include <type_traits>

#include "adamw_tensors.h"

namespace qlora::cuda {

// A segment's numbers of this step, rounded from double as Python's are.
struct Rates {
  float decay, first, beta2, second, correction, eps, step_size;

  __device__ static Rates of(const AdamWNumbers& n, double step) {
    const auto rounded = [](double value) { return static_cast<float>(value); };
    return {rounded(1 - n.lr * n.weight_decay),
            rounded(1 - n.beta1),
            rounded(n.beta2),
            rounded(1 - n.beta2),
            rounded(sqrt(1 - pow(n.beta2, step))),
            rounded(n.eps),
            rounded(-n.lr / (1 - pow(n.beta1, step)))};
  }
};

// One element, as csrc/cpu/adamw.inl: torch's fused multiply-adds, and roundings of the rest.
__device__ __forceinline__ void update(const Rates& rates, float g, float& p, float& m, float& v) {
  const bool from_gradient = rates.first >= 0.5f;  // torch.lerp goes from the nearer end
  const float weight = from_gradient ? rates.first - 1.0f : rates.first;
  m = __fmaf_rn(weight, __fsub_rn(g, m), from_gradient ? g : m);
  v = __fmaf_rn(__fmul_rn(g, rates.second), g, __fmul_rn(v, rates.beta2));
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), rates.correction), rates.eps);
  const float change = __fdiv_rn(__fmul_rn(rates.step_size, m), denominator);
  p = __fadd_rn(__fmul_rn(p, rates.decay), change);
}

// What a segment is made of, decided as the loop goes.
struct AnyKind {
  ElementType parameter, gradient;
  bool is_quantized, has_master;

  __device__ explicit AnyKind(const AdamWSegment& segment)
      : parameter(static_cast<ElementType>(segment.types & 0xff)),
        gradient(static_cast<ElementType>(segment.types >> 8)),
        is_quantized(segment.exp_avg_absmax != nullptr),
        has_master(segment.master != nullptr) {}

  __device__ static Place place(const AdamWSegment& segment, int64_t first) {
    return {first, static_cast<int>(max(int64_t{0}, min(int64_t{OWN}, segment.size - first)))};
  }
};

// The same, decided when compiling, for whole blocks of aligned tensors.
template <class Stored, bool IS_QUANTIZED, bool HAS_MASTER>
struct WholeKind {
  Known<Stored> parameter, gradient;
  static constexpr bool is_quantized = IS_QUANTIZED, has_master = HAS_MASTER;

  __device__ static WholePlace place(const AdamWSegment&, int64_t first) { return {first}; }

  __device__ static bool fits(const AdamWSegment& s) {
    using State = std::conditional_t<IS_QUANTIZED, uint8_t, float>;
    return is_aligned<Stored>(s.parameter) && is_aligned<Stored>(s.gradient) &&
           is_aligned<State>(s.exp_avg) && is_aligned<State>(s.exp_avg_sq) &&
           is_aligned<float>(s.master);
  }
};

template <class Kind>
__device__ __forceinline__ void step_block(const AdamWSegment& segment, const Kind& kind,
                                           const Rates& rates, float scale,
                                           const StateTables& tables, int64_t block) {
  const auto place = Kind::place(segment, block * STATE_BLOCK + int64_t{threadIdx.x % WARP} * OWN);
  constexpr Known<float> FLOAT32;
  const CodedState<true> exp_avg{tables.exp_avg, segment.exp_avg, segment.exp_avg_absmax + block};
  const CodedState<false> exp_avg_sq{tables.exp_avg_sq, segment.exp_avg_sq,
                                     segment.exp_avg_sq_absmax + block};
  float p[OWN], g[OWN], m[OWN], v[OWN];
  load(segment.gradient, kind.gradient, place, g);
  if (kind.is_quantized) {
    exp_avg.read(place, m);
    exp_avg_sq.read(place, v);
  } else {
    load(segment.exp_avg, FLOAT32, place, m);
    load(segment.exp_avg_sq, FLOAT32, place, v);
  }
  if (kind.has_master) {
    load(segment.master, FLOAT32, place, p);
  } else {
    load(segment.parameter, kind.parameter, place, p);
  }
#pragma unroll
  for (int i = 0; i < OWN; ++i) update(rates, __fmul_rn(g[i], scale), p[i], m[i], v[i]);
  if (kind.has_master) store(segment.master, FLOAT32, place, p);
  store(segment.parameter, kind.parameter, place, p);
  if (kind.is_quantized) {
    exp_avg.write(place, m);
    exp_avg_sq.write(place, v);
  } else {
    store(segment.exp_avg, FLOAT32, place, m);
    store(segment.exp_avg_sq, FLOAT32, place, v);
  }
}

// Calls body with the kind of a segment, where a loop was compiled for it.
template <class Body>
__device__ __forceinline__ void with_kind(const AdamWSegment& segment, const Body& body) {
  const AnyKind any(segment);
  if (any.parameter != any.gradient) return;
  with_type(any.parameter, [&](auto tag) {
    using Stored = decltype(tag);
    constexpr bool MAY_HAVE_MASTER = !std::is_same_v<Stored, float>;
    if (any.is_quantized && !any.has_master) return body(WholeKind<Stored, true, false>{});
    if (!any.is_quantized && !any.has_master) return body(WholeKind<Stored, false, false>{});
    if constexpr (MAY_HAVE_MASTER) {
      any.is_quantized ? body(WholeKind<Stored, true, true>{})
                       : body(WholeKind<Stored, false, true>{});
    }
  });
}

// Blocks [block, end) of a segment.
__device__ void step_blocks(const AdamWSegment& segment, const Rates& rates, float scale,
                            const StateTables& tables, int64_t block, int64_t end) {
  const int64_t whole = min(end, segment.size / STATE_BLOCK);
  with_kind(segment, [&](auto kind) {
    if (!kind.fits(segment)) return;
#pragma unroll 1
    for (; block < whole; ++block) step_block(segment, kind, rates, scale, tables, block);
  });
  const AnyKind any(segment);
#pragma unroll 1
  for (; block < end; ++block) step_block(segment, any, rates, scale, tables, block);
}

}  // namespace qlora::cuda
