// Finds races in shared memory: the compiler reports every access (-fsanitize=thread), and two by
// different threads, one of them a write, must have a barrier of both between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulation {

class Races {
 public:
  Races();
  // A block starts on this memory: everything before is forgotten.
  void start(const std::byte* memory, size_t size);
  void barrier() { ++block_epoch_; }
  void warp_barrier(unsigned warp) { ++warp_epoch_[warp]; }
  void access(const void* address, size_t size, bool is_write, unsigned thread);
  // What was found since the last call, in words; empty if nothing.
  std::string take();

 private:
  struct Access {
    uint32_t block_epoch = 0, warp_epoch = 0;
    uint16_t thread = 0;
    bool several_threads = false, several_warps = false;  // since the last barrier of theirs
  };
  struct Byte {
    Access written, read;
  };

  bool is_ordered(const Access& earlier, unsigned thread) const;
  void remember(Access& access, unsigned thread) const;

  Byte* const bytes_;
  const std::byte* memory_ = nullptr;
  size_t size_ = 0;
  uint32_t block_epoch_ = 0;
  uint32_t warp_epoch_[32] = {};
  std::string found_;
};

// Of the thread block that runs: the one in this slot.
Races& races();
void watch_races(unsigned slot);

}  // namespace emulation
