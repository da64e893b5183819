#include "block.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "races.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

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
  bool predicate = false;
  Meeting meeting{};
  std::byte given[MAX_VALUE];
  std::shared_ptr<const WarpValues> received;
  std::vector<std::vector<Copy>> copies;  // committed groups, the last one open
};

bool same_line(const Site& left, const Site& right) {
  return left.line() == right.line() && left.column() == right.column() &&
         std::strcmp(left.file_name(), right.file_name()) == 0;
}

std::string told(const Site& site) {
  const std::string path = site.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(site.line());
}

class Machine {
 public:
  void run(const Shape& shape, const std::function<void()>& body);
  unsigned meet_block(bool predicate, const Site& site);
  const WarpValues& meet_warp(const Meeting& meeting, const void* value, size_t size);
  void* dynamic_shared() { return shared_; }
  void* block_object(const void* key, size_t size, size_t alignment);
  Fiber& current() { return *fibers_[thread_]; }
  unsigned thread() const { return thread_; }

  unsigned seed = 0;

 private:
  static void live();  // what a fiber does
  void run_block(const std::function<void()>& body);
  void release_barrier();
  bool all_arrived(const Meeting& meeting) const;
  std::vector<unsigned> ready_threads();
  void enter(unsigned thread);
  void leave();
  std::string why_stuck() const;
  [[noreturn]] void fail(const std::string& reason);
  void make_fibers(unsigned count);

  std::vector<std::unique_ptr<Fiber>> fibers_;
  void* stacks_ = nullptr;
  alignas(1024) std::byte shared_[MAX_SHARED];
  size_t dynamic_bytes_ = 0, objects_end_ = 0;
  std::map<const void*, void*> objects_;
  const std::function<void()>* body_ = nullptr;
  unsigned num_threads_ = 0, thread_ = 0, num_true_ = 0;
  std::string error_;
  jmp_buf scheduler_;
  std::mt19937 random_;
};

Machine& machine() {
  static Machine the_machine;
  return the_machine;
}

void Machine::live() {
  for (;;) {
    try {
      (*machine().body_)();
    } catch (const std::exception& error) {
      machine().error_ = error.what();
    }
    machine().current().state = State::finished;
    machine().leave();
  }
}

void Machine::make_fibers(unsigned count) {
  if (stacks_ == nullptr) {
    stacks_ = mmap(nullptr, STACK * MAX_THREADS, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks_ == MAP_FAILED) throw std::bad_alloc();
  }
  while (fibers_.size() < count) {
    Fiber& fiber = *fibers_.emplace_back(std::make_unique<Fiber>());
    getcontext(&fiber.start);
    fiber.start.uc_stack = {static_cast<std::byte*>(stacks_) + (fibers_.size() - 1) * STACK, 0,
                            STACK};
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, live, 0);
  }
}

// Both return when the other side comes back: nothing that they keep in registers has changed.
__attribute__((noinline)) void Machine::enter(unsigned thread) {
  thread_ = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
               thread / (blockDim.x * blockDim.y)};
  Fiber& fiber = current();
  if (_setjmp(scheduler_) != 0) return;
  if (fiber.is_started) _longjmp(fiber.context, 1);
  fiber.is_started = true;
  setcontext(&fiber.start);
}

__attribute__((noinline)) void Machine::leave() {
  if (_setjmp(current().context) == 0) _longjmp(scheduler_, 1);
}

void Machine::fail(const std::string& reason) {
  fibers_.clear();  // They stand in the middle of the kernel: their stacks are given up.
  const std::string block = std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                            std::to_string(blockIdx.z);
  throw std::runtime_error(reason + " (block " + block + ")");
}

std::vector<unsigned> Machine::ready_threads() {
  std::vector<unsigned> threads;
  for (unsigned i = 0; i < num_threads_; ++i) {
    if (fibers_[i]->state == State::ready) threads.push_back(i);
  }
  if (seed != 0) std::shuffle(threads.begin(), threads.end(), random_);
  return threads;
}

std::string Machine::why_stuck() const {
  std::string finished, waiting;
  std::string first_place;
  for (unsigned i = 0; i < num_threads_; ++i) {
    const Fiber& fiber = *fibers_[i];
    const std::string name = "thread " + std::to_string(i);
    if (fiber.state == State::finished) {
      if (finished.empty()) finished = name + " has returned";
      continue;
    }
    const std::string place = std::string(fiber.meeting.what) + " at " + told(fiber.meeting.site) +
                              (fiber.state == State::in_warp ? " with others" : "");
    if (place == first_place) continue;
    if (first_place.empty()) first_place = place;
    waiting += (waiting.empty() ? "" : ", ") + name + " waits in " + place;
  }
  return "threads diverge: " + waiting + (finished.empty() ? "" : ", " + finished);
}

// All threads wait at one line: go on together.
void Machine::release_barrier() {
  num_true_ = 0;
  for (unsigned i = 0; i < num_threads_; ++i) {
    const Fiber& fiber = *fibers_[i];
    const bool is_here =
        fiber.state == State::at_barrier && same_line(fiber.meeting.site, fibers_[0]->meeting.site);
    if (!is_here) fail(why_stuck());
    num_true_ += fiber.predicate;
  }
  for (unsigned i = 0; i < num_threads_; ++i) fibers_[i]->state = State::ready;
  races().barrier();
}

void Machine::run_block(const std::function<void()>& body) {
  body_ = &body;
  make_fibers(num_threads_);
  std::memset(shared_, UNWRITTEN, dynamic_bytes_);
  objects_.clear();
  objects_end_ = dynamic_bytes_;
  races().start(shared_, sizeof shared_);
  for (unsigned i = 0; i < num_threads_; ++i) {
    fibers_[i]->state = State::ready;
    fibers_[i]->copies.assign(1, {});
  }
  const auto is_finished = [](const auto& fiber) { return fiber->state == State::finished; };
  const auto last = fibers_.begin() + num_threads_;
  while (!std::all_of(fibers_.begin(), last, is_finished)) {
    const std::vector<unsigned> threads = ready_threads();
    if (threads.empty()) release_barrier();
    for (const unsigned thread : threads) {
      enter(thread);
      if (!error_.empty()) fail(std::exchange(error_, ""));
    }
    if (const std::string race = races().take(); !race.empty()) fail(race);
  }
}

void Machine::run(const Shape& shape, const std::function<void()>& body) {
  random_.seed(seed);
  gridDim = shape.grid;
  blockDim = shape.block;
  num_threads_ = blockDim.x * blockDim.y * blockDim.z;
  dynamic_bytes_ = shape.dynamic_bytes;
  std::vector<unsigned> blocks(size_t{gridDim.x} * gridDim.y * gridDim.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (seed != 0) std::shuffle(blocks.begin(), blocks.end(), random_);
  for (const unsigned block : blocks) {
    blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / (gridDim.x * gridDim.y)};
    run_block(body);
  }
}

unsigned Machine::meet_block(bool predicate, const Site& site) {
  Fiber& fiber = current();
  fiber.predicate = predicate;
  fiber.meeting = {"__syncthreads", site, 0};
  fiber.state = State::at_barrier;
  leave();
  return num_true_;
}

bool Machine::all_arrived(const Meeting& meeting) const {
  const unsigned first = thread_ / WARP * WARP;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if ((meeting.mask >> lane & 1) == 0) continue;
    if (first + lane >= num_threads_) throw std::runtime_error("a mask names absent threads");
    const Fiber& other = *fibers_[first + lane];
    if (other.state != State::in_warp) return false;
    const bool meets = other.meeting.mask == meeting.mask &&
                       std::strcmp(other.meeting.what, meeting.what) == 0 &&
                       same_line(other.meeting.site, meeting.site);
    if (!meets) throw std::runtime_error(why_stuck());
  }
  return true;
}

const WarpValues& Machine::meet_warp(const Meeting& meeting, const void* value, size_t size) {
  Fiber& fiber = current();
  const unsigned lane = thread_ % WARP, first = thread_ - lane;
  if ((meeting.mask >> lane & 1) == 0) {
    throw std::runtime_error(std::string(meeting.what) + " at " + told(meeting.site) +
                             ": the mask should name the lane that calls, did not");
  }
  std::memcpy(fiber.given, value, size);
  fiber.meeting = meeting;
  fiber.state = State::in_warp;
  if (!all_arrived(meeting)) {
    leave();
    return *fiber.received;
  }
  if (std::strcmp(meeting.what, "__syncwarp") == 0 && std::popcount(meeting.mask) == WARP) {
    races().warp_barrier(first / WARP);
  }
  const auto values = std::make_shared<WarpValues>();
  for (unsigned i = 0; i < WARP; ++i) {
    if ((meeting.mask >> i & 1) == 0) continue;
    Fiber& other = *fibers_[first + i];
    std::memcpy(values->bytes[i], other.given, size);
    other.received = values;
    other.state = State::ready;
  }
  return *fiber.received;
}

void* Machine::block_object(const void* key, size_t size, size_t alignment) {
  void*& place = objects_[key];
  if (place == nullptr) {
    objects_end_ = (objects_end_ + alignment - 1) / alignment * alignment;
    place = shared_ + objects_end_;
    objects_end_ += size;
    if (objects_end_ > MAX_SHARED) throw std::runtime_error("too much shared memory is asked for");
    std::memset(place, UNWRITTEN, size);
  }
  return place;
}

}  // namespace

unsigned meet_block(bool predicate, const Site& site) {
  return machine().meet_block(predicate, site);
}

const WarpValues& meet_warp(const Meeting& meeting, const void* value, size_t size) {
  return machine().meet_warp(meeting, value, size);
}

unsigned lane() {
  return machine().thread() % WARP;
}

void* dynamic_shared() {
  return machine().dynamic_shared();
}

void* block_object(const void* key, size_t size, size_t alignment) {
  return machine().block_object(key, size, alignment);
}

void copy_later(void* shared, const void* global, size_t size) {
  if (reinterpret_cast<uintptr_t>(shared) % size || reinterpret_cast<uintptr_t>(global) % size) {
    throw std::runtime_error("an asynchronous copy should be aligned, was not");
  }
  machine().current().copies.back().push_back({shared, global, size});
}

void commit_copies() {
  machine().current().copies.emplace_back();
}

void wait_for_copies(unsigned groups_left) {
  auto& groups = machine().current().copies;
  while (groups.size() > groups_left + 1) {
    for (const Copy& copy : groups.front()) {
      std::memcpy(copy.shared, copy.global, copy.size);
      races().access(copy.shared, copy.size, true, machine().thread());
    }
    groups.erase(groups.begin());
  }
}

void run(const Shape& shape, const std::function<void()>& body) {
  machine().run(shape, body);
}

void set_schedule(unsigned seed) {
  machine().seed = seed;
}

}  // namespace emulation
