// A file of optimizer states, of which each thread reads and writes what it works on.
#pragma once

#include <atomic>
#include <cstdint>

namespace qlora::cpu {

class StateFile {
 public:
  explicit StateFile(int descriptor) : descriptor_(descriptor) {}

  // Bytes from `place` of the file on. Whether all were copied: after an error nothing is any more.
  bool read(int64_t place, void* target, int64_t num_bytes);
  bool write(int64_t place, const void* source, int64_t num_bytes);

  int error() const { return error_; }      // an errno, or 0
  int64_t waits() const { return waits_; }  // reads of what the system had to fetch from the disk

 private:
  template <class Transfer>
  bool copy(int64_t place, int64_t num_bytes, const Transfer& transfer);

  int descriptor_;
  std::atomic<int> error_{0};
  std::atomic<int64_t> waits_{0};
};

}  // namespace qlora::cpu
