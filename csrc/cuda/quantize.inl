// quantize: values in, codes and the absmax of each block out, in one pass over memory.
//
// A warp takes a span of SPAN values, 16-byte loads giving each lane LANE_VALUES neighbours; the
// lanes of a block agree on its absmax by shuffles. Longer blocks are a warp's too: it reads them
// twice, the second time from the cache.

constexpr int QUANTIZE_WARPS = 8, LANE_VALUES = 8, SPAN = WARP * LANE_VALUES;
constexpr uint32_t INFINITY_BITS = 0x7f800000u;  // bits of a magnitude that is not finite, or more

// What every thread knows.
template <class Element>
struct QuantizeTask {
  const Element* input;
  int64_t size;
  int block_shift;
  Codebook book;  // of int8 nothing
  uint8_t* codes;
  float* absmax;
  int32_t* is_bad;

  HOST_DEVICE int64_t block_size() const { return int64_t{1} << block_shift; }
};

// Searched by halves.
struct Thresholds {
  float values[NUM_CODES - 1];

  __device__ uint32_t rank(float scaled) const {
    uint32_t below = 0;
#pragma unroll
    for (int step = NUM_CODES / 2; step > 0; step /= 2) {
      if (scaled > values[below + step - 1]) below += step;
    }
    return below;
  }
};

// A lane's values from `first` on, 0 where there is none.
template <class Element>
__device__ void load_values(const Element* input, int64_t first, int64_t size,
                            float (&x)[LANE_VALUES]) {
  if (first + LANE_VALUES <= size && reinterpret_cast<uintptr_t>(input) % 16 == 0) {
    load_eight(input + first, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < LANE_VALUES; ++i) {
    x[i] = first + i < size ? widened(input[first + i]) : 0.0f;
  }
}

// Magnitudes of floats compare like the integers that their bits are; NaN is above infinity.
__device__ uint32_t max_magnitude(const float (&x)[LANE_VALUES], uint32_t largest) {
#pragma unroll
  for (float value : x) largest = max(largest, bits_of(value) & 0x7fffffffu);
  return largest;
}

// The first NUM_BYTES bytes, those that lie before `size`.
template <class Word>
__device__ void store_codes(uint8_t* codes, int64_t first, int64_t size, Word word) {
  if (first + int64_t{sizeof word} <= size &&
      reinterpret_cast<uintptr_t>(codes) % sizeof word == 0) {
    *reinterpret_cast<Word*>(codes + first) = word;
    return;
  }
  for (int i = 0; i < static_cast<int>(sizeof word) && first + i < size; ++i) {
    codes[first + i] = static_cast<uint8_t>(word >> (8 * i));
  }
}

// x becomes what the codebook knows: full blocks are multiplied by the reciprocal of absmax, the
// short one is divided, as bitsandbytes does. Clamping to 1 would change no rank.
__device__ void scale_values(float (&x)[LANE_VALUES], float absmax, bool is_ragged) {
  const float factor = 1.0f / fmaxf(absmax, MIN_ABSMAX);
#pragma unroll
  for (float& value : x) value = is_ragged ? value / absmax : value * factor;
}

__device__ uint32_t encode4(const Thresholds& thresholds, const Codebook& book,
                            const float (&x)[LANE_VALUES]) {
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < LANE_VALUES; ++i) {
    const uint32_t rank = thresholds.rank(x[i]);
    const uint32_t code = book.is_sorted ? rank : book.order[rank];
    word |= code << (i / 2 * 8 + (i % 2 == 0 ? 4 : 0));  // as pack_nibbles
  }
  return word;
}

__device__ uint64_t encode8(const float (&x)[LANE_VALUES], float absmax) {
  const float step = int8_step(absmax);
  uint64_t word = 0;
#pragma unroll
  for (int i = 0; i < LANE_VALUES; ++i) {
    word |= uint64_t{static_cast<uint8_t>(encode_int8(x[i], step))} << (8 * i);
  }
  return word;
}

template <class Element, bool IS_INT8>
__global__ void __launch_bounds__(QUANTIZE_WARPS* WARP)
    quantize_kernel(const __grid_constant__ QuantizeTask<Element> task) {
  Thresholds& thresholds = block_shared<Thresholds>();
  if (threadIdx.x < NUM_CODES - 1) {
    thresholds.values[threadIdx.x] = task.book.thresholds[threadIdx.x];
  }
  __syncthreads();
  const int64_t span = max(task.block_size(), int64_t{SPAN});
  const int64_t start = (int64_t{blockIdx.x} * QUANTIZE_WARPS + warp_id()) * span;
  if (start >= task.size) return;
  const int64_t own = start + lane_id() * LANE_VALUES, end = start + span;

  float x[LANE_VALUES];
  uint32_t magnitude = 0;
  for (int64_t first = own; first < end; first += SPAN) {
    load_values(task.input, first, task.size, x);
    magnitude = max_magnitude(x, magnitude);
  }
  const int lanes = min(task.block_size(), int64_t{SPAN}) / LANE_VALUES;
  for (int bit = lanes / 2; bit > 0; bit /= 2) {
    magnitude = max(magnitude, __shfl_xor_sync(0xffffffffu, magnitude, bit));
  }
  if (magnitude >= INFINITY_BITS) *task.is_bad = 1;

  const int64_t block = own >> task.block_shift;
  const bool is_ragged = (block + 1) << task.block_shift > task.size;
  float absmax = float_of(magnitude);
  if (!IS_INT8 && is_ragged) absmax = fmaxf(absmax, MIN_ABSMAX);
  if (own < task.size && lane_id() % lanes == 0) task.absmax[block] = absmax;
  for (int64_t first = own; first < min(end, task.size); first += SPAN) {
    if (span != SPAN) load_values(task.input, first, task.size, x);
    if constexpr (IS_INT8) {
      store_codes(task.codes, first, task.size, encode8(x, absmax));
    } else {
      scale_values(x, absmax, is_ragged);
      store_codes(task.codes, first / 2, (task.size + 1) / 2, encode4(thresholds, task.book, x));
    }
  }
}

template <class Element>
QuantizeTask<Element> quantize_task(const Quantize& how) {
  QuantizeTask<Element> task{static_cast<const Element*>(how.input),
                             how.size,
                             how.block_shift,
                             {},
                             how.codes,
                             how.absmax,
                             how.is_bad};
  if (!how.is_int8) task.book = Codebook::of(how.codebook);
  return task;
}

template <class Element, bool IS_INT8>
void launch_quantize(const Quantize& how, cudaStream_t stream) {
  const auto task = quantize_task<Element>(how);
  const int64_t span = std::max(task.block_size(), int64_t{SPAN});
  const auto blocks = static_cast<unsigned>(num_blocks(how.size, span * QUANTIZE_WARPS));
  launch({"quantize", blocks, QUANTIZE_WARPS * WARP, 0, stream}, quantize_kernel<Element, IS_INT8>,
         task);
}
