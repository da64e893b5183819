// adamw_step: every parameter in one pass. Blocks are independent, so that the bits do not depend
// on which thread takes which.

// The blocks of many parts, numbered through all of them.
struct Blocks {
  std::vector<int64_t> starts{0};  // the first of each part, and their number

  template <class SizeOf>
  Blocks(size_t num_parts, const SizeOf& size_of) {
    for (size_t part = 0; part < num_parts; ++part) {
      starts.push_back(count() + (size_of(part) + STATE_BLOCK - 1) / STATE_BLOCK);
    }
  }

  int64_t count() const { return starts.back(); }

  // Calls body(part, range of its blocks) for each part of which some are in this range.
  template <class Body>
  void visit(Range range, const Body& body) const {
    const auto behind = std::upper_bound(starts.begin(), starts.end(), range.first);
    for (auto part = static_cast<size_t>(behind - starts.begin()) - 1;
         part + 1 < starts.size() && starts[part] < range.last; ++part) {
      const int64_t start = starts[part], end = starts[part + 1];
      const Range own{std::max(range.first, start) - start, std::min(range.last, end) - start};
      if (own.first < own.last) body(part, own);
    }
  }
};

// Blocks that a thread takes at once. More where there are many, since lines that are asked for
// ahead of the last are in vain; the most in a file, where a call of the system takes as long as
// some do.
constexpr int64_t LEAST_TAKEN = 64, MOST_TAKEN = 256, SHARES = 16;

// Threads take what is left next, since one may be slower than another; from the end on, where what
// the norm of the gradients has just read is still in a cache.
inline void adamw_step(const AdamWTask& task, int num_threads) {
  const Blocks blocks(task.segments.size(), [&](size_t i) { return task.segments[i].size(); });
  std::atomic<int64_t> next{0};
  const int threads = threads_for(blocks.count() * STATE_BLOCK * 4, num_threads);
  const int64_t share = blocks.count() / (SHARES * threads);
  const int64_t at_once =
      task.states.file == nullptr ? std::clamp(share, LEAST_TAKEN, MOST_TAKEN) : MOST_TAKEN;
  parallel(threads_with_room(task, threads), [&](const Team& team) {
    const std::span<uint8_t> room = room_of(team, task.states.room);
    for (int64_t first; (first = next.fetch_add(at_once)) < blocks.count();) {
      const int64_t last = blocks.count() - first;
      const Range taken{std::max(last - at_once, int64_t{0}), last};
      blocks.visit(taken, [&](size_t i, Range own) {
        const AdamWSegment& segment = task.segments[i];
        if (segment.file_shift) {
          step_blocks_in_file(task, segment, own, room);
        } else {
          step_blocks(task, segment, own);
        }
      });
    }
  });
}
