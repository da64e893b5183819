// States in a file: a thread reads those of some blocks into memory of its own, updates them while
// its nearest caches hold them, and writes them back. So a step moves no more through the memory
// than one whose states are there, and no thread waits for another's copies.

constexpr size_t MOST_STATE_ARRAYS = 5;  // two moments, their scales, the master

// Calls body(array, range of its bytes) for each array of states of these blocks.
template <class Segment, class Body>
inline void for_states(Segment& segment, Range blocks, const Body& body) {
  const Range elements{blocks.first * STATE_BLOCK,
                       std::min(blocks.last * STATE_BLOCK, segment.size())};
  const auto array = [&](auto& values, Range of, int64_t width) {
    if (values != nullptr) body(values, Range{of.first * width, of.last * width});
  };
  const int64_t width = segment.exp_avg_absmax == nullptr ? sizeof(float) : sizeof(uint8_t);
  array(segment.exp_avg, elements, width);
  array(segment.exp_avg_sq, elements, width);
  array(segment.exp_avg_absmax, blocks, sizeof(float));
  array(segment.exp_avg_sq_absmax, blocks, sizeof(float));
  array(segment.master, elements, sizeof(float));
}

// The same blocks as a segment of their own, its states still those of the whole.
inline AdamWSegment part_of(const AdamWSegment& segment, Range blocks) {
  const int64_t first = blocks.first * STATE_BLOCK;
  AdamWSegment part = segment;
  part.parameter.columns = part.gradient.columns =
      std::min(blocks.last * STATE_BLOCK, segment.size()) - first;
  dispatch(segment.parameter.type, [&](auto* element) {
    part.parameter.data = static_cast<decltype(element)>(segment.parameter.data) + first;
  });
  dispatch(segment.gradient.type, [&](const auto* element) {
    part.gradient.data = static_cast<decltype(element)>(segment.gradient.data) + first;
  });
  return part;
}

struct StateCopy {
  int64_t place;
  uint8_t* memory;
  int64_t num_bytes;
};

// Blocks whose states the memory has room for; false where the file failed.
inline bool step_blocks_in_memory(const AdamWTask& task, const AdamWSegment& segment, Range blocks,
                                  uint8_t* memory) {
  AdamWSegment part = part_of(segment, blocks);
  StateCopy copies[MOST_STATE_ARRAYS];
  size_t count = 0;
  for_states(segment, blocks, [&](const auto* array, Range bytes) {
    const auto place = reinterpret_cast<intptr_t>(array) + *segment.file_shift + bytes.first;
    copies[count++] = {place, memory, bytes.size()};
    memory += aligned_states(bytes.size());
  });
  const std::span used(copies, count);
  const auto copied = [&](const auto& copy) { return std::ranges::all_of(used, copy); };
  StateFile& file = *task.states.file;
  if (!copied([&](const StateCopy& c) { return file.read(c.place, c.memory, c.num_bytes); }))
    return false;
  count = 0;
  for_states(part, {0, blocks.size()}, [&](auto*& array, Range) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(copies[count++].memory);
  });
  step_blocks(task, part, {0, blocks.size()});
  return copied([&](const StateCopy& c) { return file.write(c.place, c.memory, c.num_bytes); });
}

inline void step_blocks_in_file(const AdamWTask& task, const AdamWSegment& segment, Range blocks,
                                std::span<uint8_t> room) {
  const int64_t most = static_cast<int64_t>(room.size()) / segment.block_bytes();
  for (int64_t first = blocks.first; first < blocks.last; first += most) {
    const Range fitting{first, std::min(first + most, blocks.last)};
    if (!step_blocks_in_memory(task, segment, fitting, room.data())) return;
  }
}

// A thread's part of the room.
inline std::span<uint8_t> room_of(const Team& team, std::span<uint8_t> room) {
  const auto share = room.size() / static_cast<size_t>(team.size * STATE_ALIGN) * STATE_ALIGN;
  return room.subspan(static_cast<size_t>(team.thread) * share, share);
}

// How many threads have room for a block each.
inline int threads_with_room(const AdamWTask& task, int num_threads) {
  int64_t most = 0;
  for (const AdamWSegment& segment : task.segments) {
    if (segment.file_shift) most = std::max(most, segment.block_bytes());
  }
  if (most == 0) return num_threads;
  const auto having_room = static_cast<int64_t>(task.states.room.size()) / most;
  return static_cast<int>(std::clamp<int64_t>(having_room, 1, num_threads));
}
