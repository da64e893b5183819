// One step of AdamW for all parameters in one launch: any dtypes, 32-bit and 8-bit states, masters.
//
// Blocks of 256 elements are independent, and a warp has one at a time: eight neighbouring elements
// a lane, decoded, updated and encoded again in registers; the largest moment is found by shuffles,
// without a barrier. All blocks of all segments are one row of numbers. A warp has a contiguous run
// of them, so that it looks for its segment once and then walks on.
//
// Nobody waits for the host: whether the step is taken at all, and what gradients are multiplied
// with (unscaling and clipping), is read from device memory, and so is each segment's step number.
// The arithmetic is the reference's, operation by operation: the bits are the same as on the CPU.
//
// A code is found by eight comparisons with thresholds in shared memory, the first of which are the
// same words for all lanes: sixteen times a load, a comparison and an addition for both moments. At
// ten bytes an element, an H100's memory leaves a lane time for a hundred instructions.
#include "adamw8bit.h"

#include <cmath>
#include <type_traits>

#include "element.h"
#include "launch.h"
#include "shared.h"

namespace qlora::cuda {
namespace {

constexpr int WARP = 32, NUM_WARPS = 8, THREADS = NUM_WARPS * WARP;
constexpr int OWN = static_cast<int>(STATE_BLOCK) / WARP;  // elements of a lane
constexpr int RESIDENT = 2;                                // thread blocks of a multiprocessor

// A lane's elements of a tensor: `count` of them are there.
struct Place {
  int64_t first;
  int count;
};

template <class Stored>
struct alignas(OWN * sizeof(Stored) < 16 ? OWN * sizeof(Stored) : 16) Group {
  Stored at[OWN];
};

template <class Stored>
__device__ bool is_whole(const void* tensor, Place place) {
  return place.count == OWN && reinterpret_cast<uintptr_t>(tensor) % alignof(Group<Stored>) == 0;
}

template <class Stored>
__device__ Group<Stored> load_group(const void* tensor, Place place) {
  const auto* first = static_cast<const Stored*>(tensor) + place.first;
  if (is_whole<Stored>(tensor, place)) return *reinterpret_cast<const Group<Stored>*>(first);
  Group<Stored> group{};
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    if (i < place.count) group.at[i] = first[i];
  }
  return group;
}

template <class Stored>
__device__ void store_group(void* tensor, Place place, const Group<Stored>& group) {
  auto* first = static_cast<Stored*>(tensor) + place.first;
  if (is_whole<Stored>(tensor, place)) {
    *reinterpret_cast<Group<Stored>*>(first) = group;
    return;
  }
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    if (i < place.count) first[i] = group.at[i];
  }
}

__device__ void load(const void* tensor, int64_t type, Place place, float (&values)[OWN]) {
  with_type(static_cast<ElementType>(type), [&](auto tag) {
    const auto group = load_group<decltype(tag)>(tensor, place);
#pragma unroll
    for (int i = 0; i < OWN; ++i) values[i] = to_float(group.at[i]);
  });
}

__device__ void store(void* tensor, int64_t type, Place place, const float (&values)[OWN]) {
  with_type(static_cast<ElementType>(type), [&](auto tag) {
    Group<decltype(tag)> group;
#pragma unroll
    for (int i = 0; i < OWN; ++i) group.at[i] = from_float<decltype(tag)>(values[i]);
    store_group(tensor, place, group);
  });
}

constexpr auto FLOAT32 = static_cast<int64_t>(ElementType::float32);

// How many thresholds are below a value: the nearest entry of the map, ties to the lower code.
__device__ __forceinline__ uint8_t encode(const StateCodes& codes, float scaled) {
  int code = 0;
#pragma unroll
  for (int step = NUM_CODES8 / 2; step > 0; step /= 2) {
    if (codes.thresholds[code + step - 1] < scaled) code += step;
  }
  return static_cast<uint8_t>(code);
}

// A state: float32, or codes and the block's absmax.
struct State {
  const StateCodes& codes;
  void* values;
  float* absmax;  // the block's, or null

  __device__ void read(Place place, float (&into)[OWN]) const {
    if (absmax == nullptr) return load(values, FLOAT32, place, into);
    const auto stored = load_group<uint8_t>(values, place);
    const float scale = *absmax;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      into[i] = i < place.count ? __fmul_rn(codes.map[stored.at[i]], scale) : 0.0f;
    }
  }

  __device__ void write(Place place, const float (&from)[OWN]) const {
    if (absmax == nullptr) return store(values, FLOAT32, place, from);
    float largest = 0;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      if (i < place.count) largest = fmaxf(largest, fabsf(from[i]));
    }
#pragma unroll
    for (int other = WARP / 2; other > 0; other /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, other));
    }
    if (largest < MIN_STATE) largest = 0;
    const float inverse = largest == 0 ? 0.0f : __fdiv_rn(1.0f, largest);
    Group<uint8_t> found;
#pragma unroll
    for (int i = 0; i < OWN; ++i) found.at[i] = encode(codes, __fmul_rn(from[i], inverse));
    store_group(values, place, found);
    if (threadIdx.x % WARP == 0) *absmax = largest;
  }
};

// A segment's numbers of this step, rounded from double as Python's are.
struct Rates {
  float decay, first, beta2, second, correction, eps, step_size;

  __device__ static Rates of(const AdamWNumbers& n, double step) {
    const auto rounded = [](double value) { return static_cast<float>(value); };
    return {rounded(1 - n.lr * n.weight_decay),
            rounded(1 - n.beta1),
            rounded(n.beta2),
            rounded(1 - n.beta2),
            rounded(sqrt(1 - pow(n.beta2, step))),
            rounded(n.eps),
            rounded(-n.lr / (1 - pow(n.beta1, step)))};
  }
};

// One element, as csrc/cpu/adamw.inl: torch's fused multiply-adds, and roundings of the rest.
__device__ __forceinline__ void update(const Rates& rates, float g, float& p, float& m, float& v) {
  const bool from_gradient = rates.first >= 0.5f;  // torch.lerp goes from the nearer end
  const float weight = from_gradient ? rates.first - 1.0f : rates.first;
  m = __fmaf_rn(weight, __fsub_rn(g, m), from_gradient ? g : m);
  v = __fmaf_rn(__fmul_rn(g, rates.second), g, __fmul_rn(v, rates.beta2));
  const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), rates.correction), rates.eps);
  const float change = __fdiv_rn(__fmul_rn(rates.step_size, m), denominator);
  p = __fadd_rn(__fmul_rn(p, rates.decay), change);
}

__device__ void step_block(const AdamWSegment& segment, const Rates& rates, float scale,
                           const StateTables& tables, int64_t block) {
  const int64_t first = block * STATE_BLOCK + static_cast<int>(threadIdx.x % WARP) * OWN;
  const int64_t left = max(int64_t{0}, min(int64_t{OWN}, segment.size - first));
  const Place place{first, static_cast<int>(left)};
  const int64_t type = segment.types & 0xff;
  const bool is_quantized = segment.exp_avg_absmax != nullptr;
  const State exp_avg{tables.exp_avg, segment.exp_avg,
                      is_quantized ? segment.exp_avg_absmax + block : nullptr};
  const State exp_avg_sq{tables.exp_avg_sq, segment.exp_avg_sq,
                         is_quantized ? segment.exp_avg_sq_absmax + block : nullptr};
  float p[OWN], g[OWN], m[OWN], v[OWN];
  load(segment.gradient, segment.types >> 8, place, g);
  exp_avg.read(place, m);
  exp_avg_sq.read(place, v);
  if (segment.master != nullptr) {
    load(segment.master, FLOAT32, place, p);
  } else {
    load(segment.parameter, type, place, p);
  }
#pragma unroll
  for (int i = 0; i < OWN; ++i) update(rates, __fmul_rn(g[i], scale), p[i], m[i], v[i]);
  if (segment.master != nullptr) store(segment.master, FLOAT32, place, p);
  store(segment.parameter, type, place, p);
  exp_avg.write(place, m);
  exp_avg_sq.write(place, v);
}

// The last segment that starts at or before a block.
__device__ int64_t segment_of(const AdamWTask& task, int64_t block) {
  int64_t low = 0, high = task.num_segments;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (task.segments[middle].first_block <= block ? low : high) = middle;
  }
  return low;
}

__device__ void copy_tables(const StateTables* from, StateTables* to) {
  constexpr int WORDS = sizeof(StateTables) / sizeof(float);
  for (int i = static_cast<int>(threadIdx.x); i < WORDS; i += THREADS) {
    reinterpret_cast<float*>(to)[i] = reinterpret_cast<const float*>(from)[i];
  }
}

__global__ void __launch_bounds__(THREADS, RESIDENT)
    adamw_kernel(const __grid_constant__ AdamWTask task) {
  if (*task.skip != 0) return;
  StateTables& tables = *dynamic_shared<StateTables>();
  copy_tables(task.tables, &tables);
  __syncthreads();
  const int64_t warps = int64_t{gridDim.x} * NUM_WARPS;
  const int64_t warp = int64_t{blockIdx.x} * NUM_WARPS + threadIdx.x / WARP;
  const int64_t end = task.num_blocks * (warp + 1) / warps;
  int64_t block = task.num_blocks * warp / warps;
  for (int64_t index = segment_of(task, block); block < end; ++index) {
    const AdamWSegment segment = task.segments[index];
    const int64_t blocks = (segment.size + STATE_BLOCK - 1) / STATE_BLOCK;
    const int64_t stop = min(end, segment.first_block + blocks);
    if (block >= stop) continue;
    const Rates rates = Rates::of(task.numbers[index], static_cast<double>(*segment.step));
    for (; block < stop; ++block) {
      step_block(segment, rates, *task.scale, tables, block - segment.first_block);
    }
  }
}

}  // namespace

void adamw_step(const AdamWTask& task, cudaStream_t stream) {
  const int64_t resident = int64_t{num_multiprocessors("adamw_step")} * RESIDENT;
  const int64_t wanted = (task.num_blocks + NUM_WARPS - 1) / NUM_WARPS;
  const auto grid = static_cast<unsigned>(wanted < resident ? wanted : resident);
  launch({"adamw_step", grid, THREADS, sizeof(StateTables), stream}, adamw_kernel, task);
}

}  // namespace qlora::cuda
