#include "state_file.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace qlora::cpu {

// Where a part has to come from the disk, so has what lies behind it: the disk reads on meanwhile.
constexpr off_t READ_AHEAD = 1 << 20;

// transfer(bytes done, place) copies some of what is left and returns how much, or -1 and errno.
template <class Transfer>
bool StateFile::copy(int64_t place, int64_t num_bytes, const Transfer& transfer) {
  int64_t done = 0;
  while (done < num_bytes && error_ == 0) {
    const auto count = static_cast<int64_t>(transfer(done, place + done));
    if (count > 0) {
      done += count;
    } else if (count == 0 || errno != EINTR) {
      error_ = count == 0 ? EIO : errno;
    }
  }
  return error_ == 0;
}

bool StateFile::read(int64_t place, void* target, int64_t num_bytes) {
  auto* bytes = static_cast<uint8_t*>(target);
  return copy(place, num_bytes, [&](int64_t done, int64_t at) {
    const auto left = static_cast<size_t>(num_bytes - done);
#ifdef RWF_NOWAIT
    // Of errors and the end of the file pread has the last word: who refuses the flag says so in
    // many ways, and Linux 5.9 and 5.10 return 0 where they would have to wait.
    const iovec part{bytes + done, left};
    const ssize_t at_once = preadv2(descriptor_, &part, 1, at, RWF_NOWAIT);
    if (at_once > 0) return at_once;
    if (at_once == 0 || errno == EAGAIN) {
      ++waits_;
      posix_fadvise(descriptor_, at, static_cast<off_t>(left) + READ_AHEAD, POSIX_FADV_WILLNEED);
    }
#endif
    return pread(descriptor_, bytes + done, left, at);
  });
}

bool StateFile::write(int64_t place, const void* source, int64_t num_bytes) {
  const auto* bytes = static_cast<const uint8_t*>(source);
  return copy(place, num_bytes, [&](int64_t done, int64_t at) {
    return pwrite(descriptor_, bytes + done, static_cast<size_t>(num_bytes - done), at);
  });
}

}  // namespace qlora::cpu
