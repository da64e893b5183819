#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "races.h"
#include "resident.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

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
  void pause();
  void* dynamic_shared() { return block_->shared; }
  void* block_object(const void* key, size_t size, size_t alignment);
  Fiber& current() { return *block_->fibers[thread_]; }
  unsigned thread() const { return thread_; }

  unsigned seed = 0;

 private:
  static void live();  // what a fiber does
  void select(unsigned slot);
  void start_block(unsigned slot, unsigned number);
  bool run_round();
  void run_resident(unsigned count);
  void release_barrier();
  bool all_arrived(const Meeting& meeting) const;
  std::vector<unsigned> ready_threads();
  void enter(unsigned thread);
  void leave();
  std::string why_stuck() const;
  [[noreturn]] void fail(const std::string& reason);
  void make_fibers(unsigned count);

  std::vector<std::unique_ptr<Block>> blocks_;
  Block* block_ = nullptr;
  size_t dynamic_bytes_ = 0;
  const std::function<void()>* body_ = nullptr;
  unsigned num_threads_ = 0, thread_ = 0;
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
  if (block_->stacks == nullptr) {
    block_->stacks = mmap(nullptr, STACK * MAX_THREADS, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block_->stacks == MAP_FAILED) throw std::bad_alloc();
  }
  auto& fibers = block_->fibers;
  while (fibers.size() < count) {
    Fiber& fiber = *fibers.emplace_back(std::make_unique<Fiber>());
    getcontext(&fiber.start);
    fiber.start.uc_stack = {static_cast<std::byte*>(block_->stacks) + (fibers.size() - 1) * STACK,
                            0, STACK};
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
  // They stand in the middle of the kernel: their stacks are given up.
  for (const auto& block : blocks_) block->fibers.clear();
  const std::string block = std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                            std::to_string(blockIdx.z);
  throw std::runtime_error(reason + " (block " + block + ")");
}

std::vector<unsigned> Machine::ready_threads() {
  std::vector<unsigned> threads;
  for (unsigned i = 0; i < num_threads_; ++i) {
    if (block_->fibers[i]->state == State::ready) threads.push_back(i);
  }
  if (seed != 0) std::shuffle(threads.begin(), threads.end(), random_);
  return threads;
}

std::string Machine::why_stuck() const {
  std::string finished, waiting;
  std::string first_place;
  for (unsigned i = 0; i < num_threads_; ++i) {
    const Fiber& fiber = *block_->fibers[i];
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
  auto& fibers = block_->fibers;
  block_->num_true = 0;
  for (unsigned i = 0; i < num_threads_; ++i) {
    const Fiber& fiber = *fibers[i];
    const bool is_here =
        fiber.state == State::at_barrier && same_line(fiber.meeting.site, fibers[0]->meeting.site);
    if (!is_here) fail(why_stuck());
    block_->num_true += fiber.predicate;
  }
  for (unsigned i = 0; i < num_threads_; ++i) fibers[i]->state = State::ready;
  races().barrier();
}

// The block of a slot is the one that runs.
void Machine::select(unsigned slot) {
  block_ = blocks_[slot].get();
  blockIdx = block_->index;
  watch_races(slot);
}

void Machine::start_block(unsigned slot, unsigned number) {
  while (blocks_.size() <= slot) blocks_.push_back(std::make_unique<Block>());
  blocks_[slot]->index = {number % gridDim.x, number / gridDim.x % gridDim.y,
                          number / (gridDim.x * gridDim.y)};
  select(slot);
  block_->is_finished = false;
  make_fibers(num_threads_);
  std::memset(block_->shared, UNWRITTEN, dynamic_bytes_);
  block_->objects.clear();
  block_->objects_end = dynamic_bytes_;
  races().start(block_->shared, sizeof block_->shared);
  for (unsigned i = 0; i < num_threads_; ++i) {
    block_->fibers[i]->state = State::ready;
    block_->fibers[i]->copies.assign(1, {});
  }
}

// Every thread that can goes on to where it next waits; false if all that did only looked again.
bool Machine::run_round() {
  const std::vector<unsigned> threads = ready_threads();
  if (threads.empty()) release_barrier();
  bool has_gone_on = threads.empty();
  for (const unsigned thread : threads) {
    block_->fibers[thread]->is_pausing = false;
    enter(thread);
    if (!error_.empty()) fail(std::exchange(error_, ""));
    has_gone_on = has_gone_on || !current().is_pausing;
  }
  if (const std::string race = races().take(); !race.empty()) fail(race);
  const auto first = block_->fibers.begin();
  block_->is_finished = std::all_of(first, first + num_threads_, [](const auto& fiber) {
    return fiber->state == State::finished;
  });
  return has_gone_on;
}

// The blocks of the first slots, in turn, until all of them have ended.
void Machine::run_resident(unsigned count) {
  std::vector<unsigned> slots(count);
  std::iota(slots.begin(), slots.end(), 0u);
  for (;;) {
    std::erase_if(slots, [&](unsigned slot) { return blocks_[slot]->is_finished; });
    if (slots.empty()) return;
    if (seed != 0) std::shuffle(slots.begin(), slots.end(), random_);
    bool has_gone_on = false;
    for (const unsigned slot : slots) {
      select(slot);
      has_gone_on = run_round() || has_gone_on;
    }
    if (!has_gone_on) fail("thread blocks wait for others, which are not resident or don't come");
  }
}

void Machine::run(const Shape& shape, const std::function<void()>& body) {
  random_.seed(seed);
  gridDim = shape.grid;
  blockDim = shape.block;
  body_ = &body;
  num_threads_ = blockDim.x * blockDim.y * blockDim.z;
  dynamic_bytes_ = shape.dynamic_bytes;
  std::vector<unsigned> numbers(size_t{gridDim.x} * gridDim.y * gridDim.z);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (seed != 0) std::shuffle(numbers.begin(), numbers.end(), random_);
  const auto at_once = static_cast<unsigned>(shape.is_cooperative ? numbers.size() : 1);
  for (size_t first = 0; first < numbers.size(); first += at_once) {
    for (unsigned slot = 0; slot < at_once; ++slot) start_block(slot, numbers[first + slot]);
    run_resident(at_once);
  }
}

void Machine::pause() {
  current().is_pausing = true;
  leave();
}

unsigned Machine::meet_block(bool predicate, const Site& site) {
  Fiber& fiber = current();
  fiber.predicate = predicate;
  fiber.meeting = {"__syncthreads", site, 0};
  fiber.state = State::at_barrier;
  leave();
  return block_->num_true;
}

bool Machine::all_arrived(const Meeting& meeting) const {
  const unsigned first = thread_ / WARP * WARP;
  for (unsigned lane = 0; lane < WARP; ++lane) {
    if ((meeting.mask >> lane & 1) == 0) continue;
    if (first + lane >= num_threads_) throw std::runtime_error("a mask names absent threads");
    const Fiber& other = *block_->fibers[first + lane];
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
    Fiber& other = *block_->fibers[first + i];
    std::memcpy(values->bytes[i], other.given, size);
    other.received = values;
    other.state = State::ready;
  }
  return *fiber.received;
}

void* Machine::block_object(const void* key, size_t size, size_t alignment) {
  void*& place = block_->objects[key];
  size_t& end = block_->objects_end;
  if (place == nullptr) {
    end = (end + alignment - 1) / alignment * alignment;
    place = block_->shared + end;
    end += size;
    if (end > MAX_SHARED) throw std::runtime_error("too much shared memory is asked for");
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

void pause() {
  machine().pause();
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
