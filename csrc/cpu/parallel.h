// Threads: one region per op call, on the OpenMP runtime that torch has already started.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace qlora::cpu {

struct Range {
  int64_t first, last;

  int64_t size() const { return last - first; }
};

// The part of [0, size) that falls to one thread: as even as multiples of `grain` allow.
inline Range share(int64_t size, int64_t grain, int thread, int threads) {
  const int64_t grains = (size + grain - 1) / grain;
  const int64_t first = grains * thread / threads * grain;
  const int64_t last = grains * (thread + 1) / threads * grain;
  return {std::min(first, size), std::min(last, size)};
}

// Below this many decoded values waking a thread costs more than it brings.
constexpr int64_t VALUES_PER_THREAD = 1 << 15;

inline int threads_for(int64_t num_values, int num_threads) {
  return static_cast<int>(std::clamp<int64_t>(num_values / VALUES_PER_THREAD, 1, num_threads));
}

// A product with m rows: eight rows take as long as decoding.
inline int threads_for_product(int64_t m, int64_t n, int64_t k, int num_threads) {
  return threads_for(n * k / 8 * (m + 8), num_threads);
}

// Calls body(thread, threads) on every thread; nothing of OpenMP is touched for one thread, since a
// forked child of a process that used its pool must not (libgomp would wait for threads it lacks).
template <class Body>
void parallel(int threads, const Body& body) {
  if (threads == 1) return body(0, 1);
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

// Waits for the other threads of the region.
inline void barrier(int threads) {
  if (threads == 1) return;
#pragma omp barrier
}

}  // namespace qlora::cpu
