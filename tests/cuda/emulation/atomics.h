// Atomic operations: fibers switch only where threads meet, so that a plain read and write is one.
// They are no accesses for the race detector, which would take them for unordered ones.
#pragma once

#include <algorithm>

#include "block.h"

#define EMULATED_ATOMIC  \
  template <class Value> \
  __attribute__((no_sanitize_thread, noinline)) Value

EMULATED_ATOMIC atomicExch(Value* place, Value value) {
  const Value old = *place;
  *place = value;
  return old;
}

EMULATED_ATOMIC atomicAdd(Value* place, Value value) {
  return atomicExch(place, static_cast<Value>(*place + value));
}

EMULATED_ATOMIC atomicMax(Value* place, Value value) {
  return atomicExch(place, std::max(*place, value));
}

EMULATED_ATOMIC atomicMin(Value* place, Value value) {
  return atomicExch(place, std::min(*place, value));
}

// Wraps to 0 beyond `last`.
inline unsigned atomicInc(unsigned* place, unsigned last) {
  return atomicExch(place, *place >= last ? 0u : *place + 1);
}

EMULATED_ATOMIC atomicOr(Value* place, Value value) {
  return atomicExch(place, static_cast<Value>(*place | value));
}

EMULATED_ATOMIC atomicCAS(Value* place, Value expected, Value value) {
  const Value old = *place;
  if (old == expected) *place = value;
  return old;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// Others run meanwhile.
inline void __nanosleep(unsigned) {
  emulation::pause();
}
