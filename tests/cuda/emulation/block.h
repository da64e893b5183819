// A block of threads on one CPU thread: each runs as a fiber up to the next point where threads
// meet (a barrier, an exchange in a warp), in order or in an order shuffled by a seed. Blocks run one
// after the other, or, in a cooperative launch, in turn, so that they may wait for each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <type_traits>

#include "vector_types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulation {

using Site = std::source_location;  // where in the kernel threads meet

constexpr unsigned WARP = 32, MAX_THREADS = 1024;
constexpr size_t MAX_VALUE = 64;              // bytes that a lane gives in one exchange
constexpr size_t MAX_SHARED = 227 * 1024;     // what a block may ask for
constexpr size_t DEFAULT_SHARED = 48 * 1024;  // without asking

struct WarpValues {
  alignas(16) std::byte bytes[WARP][MAX_VALUE];
};

struct Meeting {
  const char* what;
  Site site;
  unsigned mask;
};

// Waits for all threads of the block at this line; returns how many gave true.
unsigned meet_block(bool predicate, const Site& site);

// Waits for the lanes of the mask at this line; what each of them gave.
const WarpValues& meet_warp(const Meeting& meeting, const void* value, size_t size);

template <class Value>
std::array<Value, WARP> exchange(const Meeting& meeting, const Value& value) {
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) <= MAX_VALUE);
  const WarpValues& given = meet_warp(meeting, &value, sizeof value);
  std::array<Value, WARP> values;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    std::memcpy(&values[lane], given.bytes[lane], sizeof(Value));
  }
  return values;
}

unsigned lane();

// Lets all others that can go on do so: what a thread calls that looks again and again.
void pause();

// Shared memory, filled with NaN when a block starts: what a launch asked for, and an object that
// is the same for all threads that name it by this key.
void* dynamic_shared();
void* block_object(const void* key, size_t size, size_t alignment);

template <class Value>
Value& block_shared() {
  static const char key = 0;
  return *static_cast<Value*>(block_object(&key, sizeof(Value), alignof(Value)));
}

// Asynchronous copies of the running thread: nothing moves before it waits for their group.
void copy_later(void* shared, const void* global, size_t size);
void commit_copies();
void wait_for_copies(unsigned groups_left);

struct Shape {
  dim3 grid, block;
  size_t dynamic_bytes;
  bool is_cooperative = false;
};

// Runs a grid; throws std::runtime_error if threads do not meet, race, or wait for ever.
void run(const Shape& shape, const std::function<void()>& body);

// 0: threads and blocks run in order; else in an order shuffled by the seed.
void set_schedule(unsigned seed);

}  // namespace emulation
