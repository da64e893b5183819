#include "races.h"

#include <vector>

#include "block.h"

namespace emulation {

namespace {

// Never destroyed: watched code runs until the process has ended.
std::vector<Races*>& slots() {
  static auto* const the_slots = new std::vector<Races*>{new Races};
  return *the_slots;
}

Races* watched = nullptr;

}  // namespace

Races::Races() : bytes_(new Byte[MAX_SHARED]) {}

Races& races() {
  if (watched == nullptr) watch_races(0);
  return *watched;
}

void watch_races(unsigned slot) {
  while (slots().size() <= slot) slots().push_back(new Races);
  watched = slots()[slot];
}

void Races::start(const std::byte* memory, size_t size) {
  memory_ = memory;
  size_ = size;
  ++block_epoch_;
}

bool Races::is_ordered(const Access& earlier, unsigned thread) const {
  if (earlier.block_epoch != block_epoch_) return true;
  if (!earlier.several_threads && earlier.thread == thread) return true;
  const unsigned warp = thread / WARP;
  return !earlier.several_warps && earlier.thread / WARP == warp &&
         earlier.warp_epoch != warp_epoch_[warp];
}

void Races::remember(Access& access, unsigned thread) const {
  const bool joins = !is_ordered(access, thread);
  const bool several_warps =
      joins && (access.several_warps || access.thread / WARP != thread / WARP);
  access = {block_epoch_, warp_epoch_[thread / WARP], static_cast<uint16_t>(thread), joins,
            several_warps};
}

void Races::access(const void* address, size_t size, bool is_write, unsigned thread) {
  const auto offset = static_cast<size_t>(static_cast<const std::byte*>(address) - memory_);
  if (memory_ == nullptr || offset >= size_) return;
  for (size_t i = offset; i < offset + size; ++i) {
    Byte& byte = bytes_[i];
    const bool races_write = !is_ordered(byte.written, thread);
    const bool races_read = is_write && !is_ordered(byte.read, thread);
    if ((races_write || races_read) && found_.empty()) {
      const Access& other = races_write ? byte.written : byte.read;
      found_ = "threads " + std::to_string(other.thread) + " and " + std::to_string(thread) +
               " race for byte " + std::to_string(i) + " of shared memory (" +
               (races_write ? "write" : "read") + ", then " + (is_write ? "write" : "read") + ")";
    }
    remember(is_write ? byte.written : byte.read, thread);
  }
}

std::string Races::take() {
  std::string found;
  found.swap(found_);
  return found;
}

namespace {

void note(const void* address, size_t size, bool is_write) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  races().access(address, size, is_write, thread);
}

}  // namespace
}  // namespace emulation

// What code compiled with -fsanitize=thread calls; the sanitizer's own runtime is not linked.
#define EMULATED_ACCESS(size)                        \
  void __tsan_read##size(void* address) {            \
    emulation::note(address, size, false);           \
  }                                                  \
  void __tsan_write##size(void* address) {           \
    emulation::note(address, size, true);            \
  }                                                  \
  void __tsan_unaligned_read##size(void* address) {  \
    emulation::note(address, size, false);           \
  }                                                  \
  void __tsan_unaligned_write##size(void* address) { \
    emulation::note(address, size, true);            \
  }

extern "C" {
EMULATED_ACCESS(1)
EMULATED_ACCESS(2)
EMULATED_ACCESS(4)
EMULATED_ACCESS(8)
EMULATED_ACCESS(16)
void __tsan_read_range(void* address, size_t size) {
  emulation::note(address, size, false);
}
void __tsan_write_range(void* address, size_t size) {
  emulation::note(address, size, true);
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_init() {}
}
