// A StateFile over a system that answers call by call as a script says, one letter each:
//
//   w  whole: as the system does     s  short: one byte     0  nothing
//   i  EINTR    a  EAGAIN    o  EOPNOTSUPP    n  ENOSYS    p  EPERM    f  ENOSPC    d  EIO
//
// Behind its end everything is whole.

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <map>

namespace {

const char *at_once_script, *script;

// How many of the bytes are to be copied, or -1 and errno.
ssize_t answer(const char*& next, size_t num_bytes) {
  static const std::map<char, int> ERRORS{{'i', EINTR},  {'a', EAGAIN}, {'o', EOPNOTSUPP},
                                          {'n', ENOSYS}, {'p', EPERM},  {'f', ENOSPC},
                                          {'d', EIO}};
  const char letter = *next == '\0' ? 'w' : *next++;
  if (letter == 'w') return static_cast<ssize_t>(num_bytes);
  if (letter == 's') return 1;
  if (letter == '0') return 0;
  errno = ERRORS.at(letter);
  return -1;
}

ssize_t read_at_once(int descriptor, const iovec* part, int, off_t place, int) {
  const ssize_t count = answer(at_once_script, part->iov_len);
  return count <= 0 ? count : pread(descriptor, part->iov_base, static_cast<size_t>(count), place);
}

ssize_t read_waiting(int descriptor, void* target, size_t num_bytes, off_t place) {
  const ssize_t count = answer(script, num_bytes);
  return count <= 0 ? count : pread(descriptor, target, static_cast<size_t>(count), place);
}

ssize_t write_waiting(int descriptor, const void* source, size_t num_bytes, off_t place) {
  const ssize_t count = answer(script, num_bytes);
  return count <= 0 ? count : pwrite(descriptor, source, static_cast<size_t>(count), place);
}

}  // namespace

#define preadv2 ::read_at_once
#define pread ::read_waiting
#define pwrite ::write_waiting
#include "../../csrc/cpu/state_file.cpp"

extern "C" void follow(const char* at_once, const char* waiting) {
  at_once_script = at_once;
  script = waiting;
}

// Copies from or to the start of the file; returns the error, and how many reads waited.
extern "C" int transfer(int descriptor, bool writes, void* memory, int64_t num_bytes,
                        int64_t* waits) {
  qlora::cpu::StateFile file(descriptor);
  const bool is_whole = writes ? file.write(0, memory, num_bytes) : file.read(0, memory, num_bytes);
  *waits = file.waits();
  return is_whole ? 0 : file.error();
}
