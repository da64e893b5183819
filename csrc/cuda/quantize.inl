// quantize: values in, codes and the absmax of each block out, in one pass over memory.
//
// A warp takes spans of SPAN values, 16-byte loads giving each lane LANE_VALUES neighbours; the
// lanes of a block agree on its absmax by shuffles. While it codes a span, the next one is on its
// way. Longer blocks are a warp's too: it reads them twice, the second time from the cache.

constexpr int QUANTIZE_WARPS = 8, SPAN = WARP * LANE_VALUES;
constexpr int QUANTIZE_RESIDENT = 4;  // blocks of threads on a multiprocessor, by their registers
constexpr uint32_t INFINITY_BITS = 0x7f800000u;  // bits of a magnitude that is not finite, or more

// What every thread knows of the weight.
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

// A lane's values of a span as memory has them.
template <class Element>
struct Stored {
  static constexpr int NUM = LANE_VALUES * sizeof(Element) / sizeof(uint4);
  uint4 parts[NUM];

  __device__ void load(const Element* span) {
    const auto* own = reinterpret_cast<const uint4*>(span + lane_id() * LANE_VALUES);
#pragma unroll
    for (int i = 0; i < NUM; ++i) parts[i] = __ldg(own + i);
  }
  __device__ void widen(float (&x)[LANE_VALUES]) const {
    const auto* elements = reinterpret_cast<const Element*>(parts);
#pragma unroll
    for (int i = 0; i < LANE_VALUES; ++i) x[i] = widened(elements[i]);
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

// The largest of so many neighbouring lanes, a power of two.
__device__ uint32_t largest_of(unsigned lanes, uint32_t magnitude) {
#pragma unroll
  for (unsigned bit = 1; bit < WARP; bit *= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, magnitude, bit);
    magnitude = bit < lanes ? max(magnitude, other) : magnitude;  // No branch: all lanes shuffle.
  }
  return magnitude;
}

// The bytes of a word that lie before `size`.
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

// A whole span of whole blocks, aligned.
template <class Element, class Encoder>
__device__ void code_span(const QuantizeTask<Element>& task, const Encoder& encoder, int64_t span,
                          const Stored<Element>& stored) {
  using Word = typename Encoder::Word;
  float x[LANE_VALUES];
  stored.widen(x);
  const unsigned lanes = (1u << task.block_shift) / LANE_VALUES;
  const uint32_t magnitude = largest_of(lanes, max_magnitude(x, 0));
  if (magnitude >= INFINITY_BITS) *task.is_bad = 1;
  const float absmax = float_of(magnitude);
  if (lane_id() % lanes == 0) {
    task.absmax[(span * SPAN + lane_id() * LANE_VALUES) >> task.block_shift] = absmax;
  }
  reinterpret_cast<Word*>(task.codes)[span * WARP + lane_id()] = encoder(x, absmax, false);
}

// What is left: long blocks, short ones, values off their alignment.
template <class Element, class Encoder>
__device__ void code_rest(const QuantizeTask<Element>& task, const Encoder& encoder,
                          int64_t start) {
  constexpr bool IS_INT8 = std::is_same_v<Encoder, Int8Codes>;
  const int64_t own = start + lane_id() * LANE_VALUES;
  const int64_t end = start + max(task.block_size(), int64_t{SPAN});
  float x[LANE_VALUES];
  uint32_t magnitude = 0;
  for (int64_t first = own; first < end; first += SPAN) {
    load_values(task.input, first, task.size, x);
    magnitude = max_magnitude(x, magnitude);
  }
  const auto lanes = static_cast<unsigned>(min(task.block_size(), int64_t{SPAN})) / LANE_VALUES;
  magnitude = largest_of(lanes, magnitude);
  if (magnitude >= INFINITY_BITS) *task.is_bad = 1;

  const int64_t block = own >> task.block_shift;
  const bool is_ragged = (block + 1) << task.block_shift > task.size;
  float absmax = float_of(magnitude);
  if (!IS_INT8 && is_ragged) absmax = fmaxf(absmax, MIN_ABSMAX);
  if (own < task.size && lane_id() % lanes == 0) task.absmax[block] = absmax;
  for (int64_t first = own; first < min(end, task.size); first += SPAN) {
    load_values(task.input, first, task.size, x);
    const auto word = encoder(x, absmax, is_ragged);
    constexpr int PER_BYTE = IS_INT8 ? 1 : 2;
    store_codes(task.codes, first / PER_BYTE, (task.size + PER_BYTE - 1) / PER_BYTE, word);
  }
}

template <class Element, class Encoder>
__global__ void __launch_bounds__(QUANTIZE_WARPS* WARP, QUANTIZE_RESIDENT)
    quantize_kernel(const __grid_constant__ QuantizeTask<Element> task,
                    const __grid_constant__ typename Encoder::Table table, int64_t num_spans) {
  const Encoder encoder(task.book, table);
  const int64_t warp = int64_t{blockIdx.x} * QUANTIZE_WARPS + warp_id();
  const int64_t num_warps = int64_t{gridDim.x} * QUANTIZE_WARPS;
  Stored<Element> next;
  if (warp < num_spans) next.load(task.input + warp * SPAN);
  for (int64_t span = warp; span < num_spans; span += num_warps) {
    const Stored<Element> stored = next;
    if (span + num_warps < num_spans) next.load(task.input + (span + num_warps) * SPAN);
    code_span(task, encoder, span, stored);
  }
  const int64_t step = max(task.block_size(), int64_t{SPAN});
  for (int64_t start = num_spans * SPAN + warp * step; start < task.size;
       start += num_warps * step) {
    code_rest(task, encoder, start);
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

template <class Element, class Encoder>
void launch_quantize(const QuantizeTask<Element>& task, cudaStream_t stream) {
  constexpr const char* OP = "quantize";
  const bool is_aligned = is_multiple_of_16(task.input) && is_multiple_of_16(task.codes);
  const int64_t num_spans = is_aligned && task.block_size() <= SPAN ? task.size / SPAN : 0;
  const int64_t step = std::max(task.block_size(), int64_t{SPAN});
  const int64_t wanted = num_blocks(
      std::max(num_spans, num_blocks(task.size - num_spans * SPAN, step)), QUANTIZE_WARPS);
  const auto blocks = std::min(wanted, int64_t{QUANTIZE_RESIDENT} * num_multiprocessors(OP));
  launch({OP, static_cast<unsigned>(blocks), QUANTIZE_WARPS * WARP, 0, stream},
         quantize_kernel<Element, Encoder>, task, Encoder::table_of(task.book), num_spans);
}
