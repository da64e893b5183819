// A block of AdamW's elements in a warp: what its lanes read of tensors, and write.
#pragma once

#include <type_traits>

#include "adamw8bit.h"
#include "element.h"

namespace qlora::cuda {

constexpr int WARP = 32;
constexpr int OWN = static_cast<int>(STATE_BLOCK) / WARP;  // neighbouring elements of a lane

template <class Stored>
struct alignas(OWN * sizeof(Stored) < 16 ? OWN * sizeof(Stored) : 16) Group {
  Stored at[OWN];
};

template <class Stored>
__device__ __forceinline__ bool is_aligned(const void* tensor) {
  return reinterpret_cast<uintptr_t>(tensor) % alignof(Group<Stored>) == 0;
}

// A lane's elements of a tensor: `count` of them are there.
struct Place {
  int64_t first;
  int count;

  template <class Stored>
  __device__ bool is_whole(const void* tensor) const {
    return count == OWN && is_aligned<Stored>(tensor);
  }
};

// The same where all are there, in tensors that are known to be aligned.
struct WholePlace {
  int64_t first;
  static constexpr int count = OWN;

  template <class Stored>
  __device__ static constexpr bool is_whole(const void*) {
    return true;
  }
};

template <class Stored, class Where>
__device__ __forceinline__ Group<Stored> load_group(const void* tensor, Where place) {
  const auto* first = in_global(static_cast<const Stored*>(tensor)) + place.first;
  if (place.template is_whole<Stored>(tensor))
    return *reinterpret_cast<const Group<Stored>*>(first);
  Group<Stored> group{};
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    if (i < place.count) group.at[i] = first[i];
  }
  return group;
}

template <class Stored, class Where>
__device__ __forceinline__ void store_group(void* tensor, Where place, const Group<Stored>& group) {
  auto* first = in_global(static_cast<Stored*>(tensor)) + place.first;
  if (place.template is_whole<Stored>(tensor)) {
    *reinterpret_cast<Group<Stored>*>(first) = group;
    return;
  }
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    if (i < place.count) first[i] = group.at[i];
  }
}

// To the nearest, ties to even.
template <class Stored>
__device__ __forceinline__ Group<Stored> rounded(const float (&values)[OWN]) {
  Group<Stored> group;
#pragma unroll
  for (int i = 0; i < OWN; i += 2) {
    if constexpr (std::is_same_v<Stored, float>) {
      group.at[i] = values[i];
      group.at[i + 1] = values[i + 1];
    } else {
      const uint32_t pair = rounded_pair<Stored>(values[i], values[i + 1]);
      group.at[i] = {static_cast<uint16_t>(pair)};
      group.at[i + 1] = {static_cast<uint16_t>(pair >> 16)};
    }
  }
  return group;
}

// A type that is known when compiling, where others are ElementType.
template <class Stored>
struct Known {};

template <class Stored, class Body>
__device__ __forceinline__ void with_type(Known<Stored>, const Body& body) {
  body(Stored{});
}

template <class Type, class Where>
__device__ __forceinline__ void load(const void* tensor, Type type, Where place,
                                     float (&values)[OWN]) {
  with_type(type, [&](auto tag) {
    const auto group = load_group<decltype(tag)>(tensor, place);
#pragma unroll
    for (int i = 0; i < OWN; ++i) values[i] = widened(group.at[i]);
  });
}

template <class Type, class Where>
__device__ __forceinline__ void store(void* tensor, Type type, Where place,
                                      const float (&values)[OWN]) {
  with_type(type, [&](auto tag) { store_group(tensor, place, rounded<decltype(tag)>(values)); });
}

// How many thresholds are below a value: the nearest entry of the map, ties to the lower code.
template <bool SIGNED>
__device__ __forceinline__ uint8_t encode(const StateCodes& codes, float scaled) {
  using Cells = StateCells<SIGNED>;
  const uint32_t bits = __float_as_uint(scaled);
  const int place = static_cast<int>((bits & 0x7fffffffu) >> Cells::SHIFT) - Cells::FIRST;
  int cell = min(max(place, 0), Cells::COUNT - 1);  // the upper end: 1, or what is no number
  if (SIGNED && bits >> 31 != 0) cell += Cells::COUNT;
  const int code = codes.first[cell];
  return static_cast<uint8_t>(code + (codes.thresholds[code] < scaled));
}

// Codes of a state of a block whose scale is *absmax.
template <bool SIGNED>
struct CodedState {
  const StateCodes& codes;
  void* values;
  float* absmax;

  template <class Where>
  __device__ __forceinline__ void read(Where place, float (&into)[OWN]) const {
    const auto stored = load_group<uint8_t>(values, place);
    const float scale = *in_global(absmax);
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      into[i] = i < place.count ? __fmul_rn(codes.map[stored.at[i]], scale) : 0.0f;
    }
  }

  template <class Where>
  __device__ __forceinline__ void write(Where place, const float (&from)[OWN]) const {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      if (i < place.count) largest = fmaxf(largest, fabsf(from[i]));
    }
#pragma unroll
    for (int other = WARP / 2; other > 0; other /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
    }
    if (largest < MIN_STATE) largest = 0;
    const float inverse = largest == 0 ? 0.0f : __fdiv_rn(1.0f, largest);
    Group<uint8_t> found;
#pragma unroll
    for (int i = 0; i < OWN; ++i) found.at[i] = encode<SIGNED>(codes, __fmul_rn(from[i], inverse));
    store_group(values, place, found);
    if (threadIdx.x % WARP == 0) *in_global(absmax) = largest;
  }
};

}  // namespace qlora::cuda
