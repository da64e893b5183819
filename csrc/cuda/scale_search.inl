// search_scales, search_nested: of several scales of a block the one with the least squared error,
// and the codes for it; bit for bit what the reference does (qlora_kernels/ops/quantize).
//
// A block of values is a warp's. It lies in shared memory divided by its absmax, x in [-1, 1], and
// a scale is its ratio to absmax. Every lane tries ratios of its own on all values: so a sum of
// squares has the one order that all backends add in, value i in sum i % 8, then halves.

constexpr int SEARCH_WARPS = 2;  // Long blocks fill shared memory, of short ones many are resident.
constexpr int NUM_SUMS = 8;
static_assert(NUM_SUMS == LANE_VALUES);

struct SearchedBook {
  SharedCodes codes;
  float by_rank[NUM_CODES];

  __device__ void fill(const Codebook& book) {
    codes.fill(book);
    if (threadIdx.x < NUM_CODES) by_rank[threadIdx.x] = book.by_rank[threadIdx.x];
  }
};

// A scale of zero makes every value zero, whatever the codes.
__device__ float inverse_of(float ratio) {
  return ratio == 0.0f ? 0.0f : 1.0f / ratio;
}

// What a lane knows of its warp's block.
struct SearchedBlock {
  const SearchedBook& book;
  const float *x, *importance;  // in shared memory; importance of each value, or null
  int count;
  float absmax;

  // importance (x - nearest value * ratio)^2
  __device__ float square(int i, float ratio, float inverse) const {
    const float error = x[i] - book.by_rank[book.codes.rank(x[i] * inverse)] * ratio;
    return importance == nullptr ? error * error : error * error * importance[i];
  }

  __device__ float error(float ratio) const {
    const float inverse = inverse_of(ratio);
    float sums[NUM_SUMS] = {};
    int i = 0;
    for (; i + NUM_SUMS <= count; i += NUM_SUMS) {
#pragma unroll
      for (int j = 0; j < NUM_SUMS; ++j) sums[j] += square(i + j, ratio, inverse);
    }
#pragma unroll
    for (int j = 0; j < NUM_SUMS; ++j) {
      if (i + j < count) sums[j] += square(i + j, ratio, inverse);
    }
#pragma unroll
    for (int width = NUM_SUMS / 2; width > 0; width /= 2) {
#pragma unroll
      for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
    }
    return sums[0];
  }
};

// Candidates: absmax itself, then its multiples whose scale is finite.
struct Multiples {
  const float* ratios;
  int num_ratios;
  float* scales;  // [blocks]

  __device__ int num() const { return 1 + num_ratios; }
  __device__ float ratio(int i, int64_t, float) const { return i == 0 ? 1.0f : ratios[i - 1]; }
  __device__ bool has(int i, int64_t block, float absmax) const {
    const float scale = ratio(i, block, absmax) * absmax;
    return i == 0 || (bits_of(scale) & 0x7fffffffu) < INFINITY_BITS;
  }
  __device__ void keep(int i, int64_t block, float absmax) const {
    scales[block] = ratio(i, block, absmax) * absmax;
  }
};

// Candidates: the 8-bit scale of a block, the one below and the one above.
struct Neighbours {
  const float *map, *nested_absmax, *offset;
  uint8_t* scale_codes;  // [blocks]

  __device__ static int num() { return 3; }
  __device__ int code(int i, int64_t block) const {
    return scale_codes[block] + (i == 0 ? 0 : 2 * i - 3);
  }
  __device__ float ratio(int i, int64_t block, float absmax) const {
    const float nested = nested_absmax[block / NESTED_BLOCK];
    const auto known = static_cast<uint8_t>(code(i, block));
    return decode_scale(map, known, nested, *offset) / fmaxf(absmax, MIN_ABSMAX);
  }
  __device__ bool has(int i, int64_t block, float) const {
    return code(i, block) >= 0 && code(i, block) < NUM_CODES8;
  }
  __device__ void keep(int i, int64_t block, float) const {
    scale_codes[block] = static_cast<uint8_t>(code(i, block));
  }
};

// The first of the best candidates; one without an error to compare is only taken if it is first.
template <class Candidates>
__device__ int best_of(const Candidates& candidates, int64_t index, const SearchedBlock& block) {
  uint64_t best = ~uint64_t{0};  // the error's bits, which compare like it, and the number
  for (int i = lane_id(); i < candidates.num(); i += WARP) {
    if (!candidates.has(i, index, block.absmax)) continue;
    const float error = block.error(candidates.ratio(i, index, block.absmax));
    const uint64_t key = uint64_t{bits_of(error)} << 32 | static_cast<unsigned>(i);
    const bool is_nan = error != error;
    if (is_nan && i != 0) continue;
    best = min(best, is_nan ? 0 : key);
  }
  for (int bit = WARP / 2; bit > 0; bit /= 2) {
    best = min(best, __shfl_xor_sync(0xffffffffu, best, bit));
  }
  return static_cast<int>(best);
}

// What every thread knows, beside the candidates.
template <class Element>
struct SearchTask {
  QuantizeTask<Element> weight;
  const float* importance;  // [columns], or null
  int64_t columns;
};

// The largest magnitude of a block, and its values in `x` as they are.
template <class Element>
__device__ uint32_t load_block(const QuantizeTask<Element>& task, int64_t start, float* x) {
  uint32_t magnitude = 0;
  for (int i = lane_id() * LANE_VALUES; i < task.block_size(); i += SPAN) {
    float values[LANE_VALUES];
    load_values(task.input, start + i, task.size, values);
    magnitude = max_magnitude(values, magnitude);
#pragma unroll
    for (int j = 0; j < LANE_VALUES; ++j) x[i + j] = values[j];
  }
  return __reduce_max_sync(0xffffffffu, magnitude);
}

template <class Element, class Candidates>
__global__ void __launch_bounds__(SEARCH_WARPS* WARP)
    search_scales_kernel(const __grid_constant__ SearchTask<Element> task,
                         const __grid_constant__ Candidates candidates) {
  const QuantizeTask<Element>& weight = task.weight;
  SearchedBook& book = block_shared<SearchedBook>();
  book.fill(weight.book);
  __syncthreads();
  const int64_t index = int64_t{blockIdx.x} * SEARCH_WARPS + warp_id();
  const int64_t start = index << weight.block_shift, size = weight.block_size();
  if (start >= weight.size) return;
  const int count = static_cast<int>(min(size, weight.size - start));
  float* x = dynamic_shared<float>() + warp_id() * size * (task.importance == nullptr ? 1 : 2);
  float* importance = task.importance == nullptr ? nullptr : x + size;

  const uint32_t magnitude = load_block(weight, start, x);
  if (magnitude >= INFINITY_BITS) *weight.is_bad = 1;
  const bool is_ragged = count < size;
  float absmax = float_of(magnitude);
  if (is_ragged) absmax = fmaxf(absmax, MIN_ABSMAX);
  for (int i = lane_id() * LANE_VALUES; i < size; i += SPAN) {
    float values[LANE_VALUES];
    for (int j = 0; j < LANE_VALUES; ++j) values[j] = x[i + j];
    scale_values(values, absmax, is_ragged);
    for (int j = 0; j < LANE_VALUES; ++j) {
      x[i + j] = clamp_to_one(values[j]);
      if (importance != nullptr) {
        importance[i + j] = task.importance[(start + i + j) % task.columns];
      }
    }
  }
  __syncwarp();

  const int best = best_of(candidates, index, {book, x, importance, count, absmax});
  const float inverse = inverse_of(candidates.ratio(best, index, absmax));
  __syncwarp();  // Nobody asks for the codes of the block's scale any more.
  if (lane_id() == 0) candidates.keep(best, index, absmax);
  for (int i = lane_id() * LANE_VALUES; i < count; i += SPAN) {
    float values[LANE_VALUES];
    for (int j = 0; j < LANE_VALUES; ++j) values[j] = x[i + j] * inverse;
    const uint32_t word = encode4(book.codes, values);
    store_codes(weight.codes, (start + i) / 2, (weight.size + 1) / 2, word);
  }
}

template <class Element, class Candidates>
void launch_search(const Quantize& how, const Importance& importance, const Candidates& candidates,
                   cudaStream_t stream) {
  const SearchTask<Element> task{quantize_task<Element>(how), importance.values,
                                 importance.columns};
  const int64_t block_size = task.weight.block_size();
  const auto blocks = static_cast<unsigned>(num_blocks(how.size, block_size * SEARCH_WARPS));
  const size_t arrays = importance.values == nullptr ? 1 : 2;
  const size_t shared = SEARCH_WARPS * arrays * block_size * sizeof(float);
  launch({"quantize", blocks, SEARCH_WARPS * WARP, shared, stream},
         search_scales_kernel<Element, Candidates>, task, candidates);
}
