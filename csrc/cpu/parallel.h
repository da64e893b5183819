// Threads: one region per op call, on the OpenMP runtime that torch has already started.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace qlora::cpu {

struct Range {
  int64_t first, last;

  int64_t size() const { return last - first; }
};

// Part `index` of [0, length) in `count` parts: as even as multiples of `grain` allow.
inline Range part_of(int64_t length, int64_t grain, int64_t index, int64_t count) {
  const int64_t grains = (length + grain - 1) / grain;
  const int64_t first = grains * index / count * grain;
  const int64_t last = grains * (index + 1) / count * grain;
  return {std::min(first, length), std::min(last, length)};
}

// One thread of a team.
struct Team {
  int thread, size;

  Range share_of(int64_t length, int64_t grain) const {
    return part_of(length, grain, thread, size);
  }

  // Waits for the others.
  void wait() const {
    if (size == 1) return;
#pragma omp barrier
  }
};

// A range whose parts threads take as they become free: equal shares end at different times where
// cores differ, or have neighbours. For work in which it does not matter who does what.
class SharedRange {
 public:
  // Calls body(part) for parts of [0, length) that no other thread of the team takes, of at most so
  // many, and towards the end of fewer: multiples of grain.
  template <class Body>
  void for_parts(int64_t length, int64_t grain, int64_t most, const Team& team, const Body& body) {
    if (team.size == 1) return body(Range{0, length});
    int64_t first = next_.load(std::memory_order_relaxed);
    while (first < length) {
      const int64_t half_a_share = (length - first) / (2 * team.size) / grain * grain;
      const int64_t last = std::min(first + std::clamp(half_a_share, grain, most), length);
      if (!next_.compare_exchange_weak(first, last, std::memory_order_relaxed)) continue;
      body(Range{first, last});
      first = next_.load(std::memory_order_relaxed);
    }
  }

 private:
  std::atomic<int64_t> next_{0};
};

// Below this many decoded values waking a thread costs more than it brings.
constexpr int64_t VALUES_PER_THREAD = 1 << 15;

inline int threads_for(int64_t num_values, int num_threads) {
  return static_cast<int>(std::clamp<int64_t>(num_values / VALUES_PER_THREAD, 1, num_threads));
}

// A product with m rows: eight rows take as long as decoding.
inline int threads_for_product(int64_t m, int64_t n, int64_t k, int num_threads) {
  return threads_for(n * k / 8 * (m + 8), num_threads);
}

// Calls body(team) on every thread. Nothing of OpenMP is touched for one: a forked child must not,
// as libgomp would wait for the threads that its parent had.
template <class Body>
void parallel(int threads, const Body& body) {
  if (threads == 1) return body(Team{0, 1});
#pragma omp parallel num_threads(threads)
  body(Team{omp_get_thread_num(), omp_get_num_threads()});
}

}  // namespace qlora::cpu
