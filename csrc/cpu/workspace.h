// Scratch memory that outlives the call: fresh pages cost as much as a small matmul to fault in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace qlora::cpu {

// Grows to the largest need and is kept per calling thread; what one call wrote there, the next may
// overwrite. Buffers above KEPT_FLOATS are given back when the call ends.
class Workspace {
 public:
  explicit Workspace(int64_t num_floats) : memory_(kept()) {
    if (memory_.capacity < num_floats) memory_ = Memory(num_floats);
  }
  ~Workspace() {
    if (memory_.capacity > KEPT_FLOATS) memory_ = Memory();
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // The next part, aligned to a cache line.
  float* take(int64_t num_floats) {
    float* part = memory_.floats.get() + used_;
    used_ += padded(num_floats);
    return part;
  }

  static int64_t padded(int64_t num_floats) { return (num_floats + LINE - 1) / LINE * LINE; }

 private:
  static constexpr int64_t LINE = 64 / sizeof(float);
  static constexpr int64_t KEPT_FLOATS = int64_t{16} << 20;

  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  struct Memory {
    std::unique_ptr<float, Free> floats;
    int64_t capacity = 0;

    Memory() = default;
    explicit Memory(int64_t num_floats)
        : floats(static_cast<float*>(
              std::aligned_alloc(64, static_cast<size_t>(padded(num_floats)) * sizeof(float)))),
          capacity(num_floats) {
      if (floats == nullptr) throw std::bad_alloc();
    }
  };

  static Memory& kept() {
    thread_local Memory memory;
    return memory;
  }

  Memory& memory_;
  int64_t used_ = 0;
};

}  // namespace qlora::cpu
