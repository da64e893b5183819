// What lanes of a warp do together: shuffles, votes, matches, reductions.
#pragma once

#include <algorithm>

#include "block.h"

constexpr unsigned ALL_LANES = 0xffffffffu;

inline void __syncwarp(unsigned mask = ALL_LANES,
                       const emulation::Site& site = emulation::Site::current()) {
  emulation::exchange({"__syncwarp", site, mask}, 0);
}

namespace emulation {

// The value of the lane that `source` names among those of a segment, or one's own.
template <class Value, class Source>
Value shuffled(const Meeting& meeting, const Value& value, int width, const Source& source) {
  const auto values = exchange(meeting, value);
  const int own = static_cast<int>(lane()), first = own / width * width;
  const int from = source(own - first);
  return from < 0 || from >= width ? value : values[first + from];
}

template <class Value, class Combine>
Value reduced(const Meeting& meeting, Value value, const Combine& combine) {
  const auto values = exchange(meeting, value);
  for (unsigned i = 0; i < WARP; ++i) {
    if (i != lane() && (meeting.mask >> i & 1) != 0) value = combine(value, values[i]);
  }
  return value;
}

}  // namespace emulation

template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source, int width = warpSize,
                  const emulation::Site& site = emulation::Site::current()) {
  return emulation::shuffled({"__shfl_sync", site, mask}, value, width,
                             [&](int) { return source & (width - 1); });
}

template <class Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned delta, int width = warpSize,
                     const emulation::Site& site = emulation::Site::current()) {
  return emulation::shuffled({"__shfl_up_sync", site, mask}, value, width,
                             [&](int own) { return own - static_cast<int>(delta); });
}

template <class Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned delta, int width = warpSize,
                       const emulation::Site& site = emulation::Site::current()) {
  return emulation::shuffled({"__shfl_down_sync", site, mask}, value, width,
                             [&](int own) { return own + static_cast<int>(delta); });
}

template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int bits, int width = warpSize,
                      const emulation::Site& site = emulation::Site::current()) {
  return emulation::shuffled({"__shfl_xor_sync", site, mask}, value, width,
                             [&](int own) { return own ^ bits; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const emulation::Site& site = emulation::Site::current()) {
  const auto votes = emulation::exchange({"__ballot_sync", site, mask}, predicate);
  unsigned ballot = 0;
  for (unsigned i = 0; i < emulation::WARP; ++i) {
    if ((mask >> i & 1) != 0 && votes[i] != 0) ballot |= 1u << i;
  }
  return ballot;
}

inline int __any_sync(unsigned mask, int predicate,
                      const emulation::Site& site = emulation::Site::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      const emulation::Site& site = emulation::Site::current()) {
  return __ballot_sync(mask, predicate, site) == mask;
}

template <class Value>
unsigned __match_any_sync(unsigned mask, Value value,
                          const emulation::Site& site = emulation::Site::current()) {
  const auto values = emulation::exchange({"__match_any_sync", site, mask}, value);
  unsigned same = 0;
  for (unsigned i = 0; i < emulation::WARP; ++i) {
    if ((mask >> i & 1) != 0 && values[i] == value) same |= 1u << i;
  }
  return same;
}

inline int __reduce_add_sync(unsigned mask, int value,
                             const emulation::Site& site = emulation::Site::current()) {
  return emulation::reduced({"__reduce_add_sync", site, mask}, value,
                            [](int left, int right) { return left + right; });
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value,
                                  const emulation::Site& site = emulation::Site::current()) {
  return emulation::reduced({"__reduce_max_sync", site, mask}, value,
                            [](unsigned left, unsigned right) { return std::max(left, right); });
}
