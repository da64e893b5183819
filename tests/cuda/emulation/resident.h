// Threads and thread blocks as the emulation keeps them.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <vector>

#include "block.h"

namespace emulation {

constexpr size_t STACK = 256 * 1024;
constexpr int UNWRITTEN = 0xff;  // NaN in every float type
enum class State { ready, at_barrier, in_warp, finished };

struct Copy {
  void* shared;
  const void* global;
  size_t size;
};

// A thread of the block. A fiber starts once and then runs one block after another.
struct Fiber {
  ucontext_t start;
  jmp_buf context;
  bool is_started = false;
  State state = State::finished;
  bool is_pausing = false;  // ready, but only to look again
  bool predicate = false;
  Meeting meeting{};
  std::byte given[MAX_VALUE];
  std::shared_ptr<const WarpValues> received;
  std::vector<std::vector<Copy>> copies;  // committed groups, the last one open
};

// A thread block that is resident: its threads and its shared memory.
struct Block {
  uint3 index{};
  bool is_finished = false;
  std::vector<std::unique_ptr<Fiber>> fibers;
  void* stacks = nullptr;
  alignas(1024) std::byte shared[MAX_SHARED];
  size_t objects_end = 0;
  std::map<const void*, void*> objects;
  unsigned num_true = 0;
};

}  // namespace emulation
