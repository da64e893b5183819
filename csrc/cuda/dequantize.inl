// dequantize: codes and scales in, values out, in one pass over memory.
//
// Two codes at a time are looked up: a byte is the row of a table of all 256 pairs of values.
//
//   row of 128 bytes | copy 0 .. copy 15 of the pair (8 bytes each): a half-warp reads one copy
//   |                  each, no bank twice
//   address          = table + 128 byte + 8 (lane % 16)
//
// A warp makes the addresses by its matrix instruction, which multiplies bytes and sums exactly,
// and is idle otherwise. A matrix that is 128 once in a row and 0 elsewhere, times a matrix of
// codes, picks a code for each lane and multiplies it by the width of a row; added to where the
// lane's copies start, that makes four addresses in one instruction, where a byte permute makes
// one. It picks among the codes of four lanes, and so 16 bytes that a lane has loaded end up where
// neighbouring lanes store neighbouring values, whole sectors of memory at a time.
//
// int8 codes take the same way: the matrix has ones, and what is added makes a float of the sum.
constexpr int NUM_WARPS = 16, NUM_THREADS = WARP * NUM_WARPS;
constexpr int RESIDENT = 1;  // blocks on a multiprocessor, by their registers
constexpr int NUM_ROWS = 256, COPIES = 16, ROW_BYTES = COPIES * sizeof(float2);
constexpr int STEP_BYTES = 16 * WARP, NUM_STEPS = 4;  // codes of a matrix; matrices at a time
constexpr int TILE_BYTES = NUM_STEPS * STEP_BYTES;

struct PairTable {
  float2 rows[NUM_ROWS][COPIES];

  // The values of every byte of two codes, the high one first.
  __device__ void fill(const float (&codebook)[NUM_CODES]) {
    for (int i = threadIdx.x; i < NUM_ROWS * COPIES; i += NUM_THREADS) {
      const int byte = i / COPIES;
      rows[byte][i % COPIES] = {codebook[byte >> 4], codebook[byte & 15]};
    }
  }
};

// Where codes of a step lie, in bytes. A quad of lanes loads LOAD each, two runs of RUN: the first
// ones are a column of one matrix of codes, the second ones of another. Of the columns 2t and 2t +
// 1 of either the product gives lane 4g + t four codes each, which STORE by STORE it stores.
template <class Element, bool IS_INT8>
struct Layout {
  static constexpr int PER_BYTE = IS_INT8 ? 1 : 2;  // values
  static constexpr int STEP = STEP_BYTES * PER_BYTE, TILE = NUM_STEPS * STEP;
  static constexpr int LOAD = 16, RUN = 8, QUAD = 4 * LOAD;
  static constexpr int STORE = std::min(4, int{16 / sizeof(Element)} / PER_BYTE);
  static constexpr int VALUES = STORE * PER_BYTE, NUM_STORES = 4 / STORE;

  // Whose run in a column a lane stores of, and from which byte on.
  __device__ static int source() { return lane_id() / 4 * STORE / RUN * NUM_STORES; }
  __device__ static int byte() { return lane_id() / 4 * STORE % RUN; }
  // The place in a step of the first value that a lane stores, and how far behind it others are.
  __device__ static int first() {
    return PER_BYTE * (lane_id() % 4 * 2 * QUAD + source() * LOAD + byte());
  }
  static constexpr int behind(int column, int store, int run) {
    return PER_BYTE * (column * QUAD + store * LOAD + run * RUN);
  }
};

// The matrices that pick codes: number i those of bytes 2i and 2i + 1 that a lane gets of a column.
template <class Element, bool IS_INT8>
struct Selection {
  using At = Layout<Element, IS_INT8>;
  static constexpr uint32_t FACTOR = IS_INT8 ? 1 : ROW_BYTES;
  ByteRows rows[2];

  __device__ Selection() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int source = At::source() + 2 * i / At::STORE;
      const int byte = At::byte() + 2 * i % At::STORE;
      const bool is_picked = source == static_cast<int>(lane_id() % 4);
      const uint32_t part = (is_picked ? FACTOR : 0) << (8 * (byte % 4));
      const uint32_t low = byte < 4 ? part : 0, high = part - low;
      rows[i] = {low, low << 8, high, high << 8};
    }
  }
};

// What is added to the product, and the values that the sum stands for.
template <bool IS_INT8>
struct Decoder;

template <>
struct Decoder<false> {
  uint4 start;

  __device__ explicit Decoder(const Weight& weight) {
    PairTable& table = block_shared<PairTable>();
    table.fill(weight.codebook);
    __syncthreads();
    // Four copies, not one: equal numbers would be moved to registers of their own each time.
    const auto copy = [&](unsigned i) {
      return shared_address(&table.rows[0][(lane_id() ^ i) % COPIES]);
    };
    start = {copy(0), copy(1), copy(2), copy(3)};
  }
  __device__ void decode(uint32_t sum, float* values) const {
    const float2 pair = load_shared_pair(sum);
    values[0] = pair.x;
    values[1] = pair.y;
  }
};

template <>
struct Decoder<true> {
  static constexpr float ORIGIN = 0x1.8p23f;  // Integers around it are neighbouring floats.
  uint4 start{bits_of(ORIGIN), bits_of(ORIGIN), bits_of(ORIGIN), bits_of(ORIGIN)};

  __device__ explicit Decoder(const Weight&) {}
  __device__ void decode(uint32_t sum, float* value) const { *value = float_of(sum) - ORIGIN; }
};

// What a code's value is multiplied by.
template <bool IS_INT8, bool NESTED>
__device__ float scale_of(StoredScale<NESTED> stored, float offset) {
  const float absmax = stored.decode(offset);
  return IS_INT8 ? int8_step(absmax) : absmax;
}

// Scales of a tile, one for each GRANULE values of a block: lane i has the i-th of every 32.
template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
struct TileScales {
  using At = Layout<Element, IS_INT8>;
  using Stored = StoredScale<NESTED>;
  static constexpr int NUM = At::TILE / GRANULE / WARP, PER_STEP = At::STEP / GRANULE;
  static_assert(int64_t{NUM} * WARP <= NESTED_BLOCK, "a tile lies in one nested block");
  float own[NUM];

  __device__ TileScales(const Weight& weight, float offset, uint32_t tile) {
    // Only blocks of MIN_BLOCK values have granules as small.
    const int shift =
        GRANULE == MIN_BLOCK ? 0 : weight.block_shift - std::bit_width(unsigned{GRANULE - 1});
    const uint32_t first = tile * NUM * WARP;
    Stored stored[NUM];
#pragma unroll
    for (int i = 0; i < NUM; ++i) {
      const uint32_t granule = first + i * WARP + lane_id();
      stored[i] = Stored::load(weight.scales, granule >> shift, first >> shift);
    }
#pragma unroll
    for (int i = 0; i < NUM; ++i) own[i] = scale_of<IS_INT8>(stored[i], offset);
  }

  // For values so far behind the lane's first of a step; a question that all lanes ask at once.
  __device__ float at(int step, int behind) const {
    const int granule = step * PER_STEP % WARP + behind / GRANULE;
    return __shfl_sync(0xffffffffu, own[step * PER_STEP / WARP], granule + At::first() / GRANULE);
  }
};

// Decodes and stores a step; `out` is where the lane's first value goes.
template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
__device__ void decode_step(const uint4& codes, const Selection<Element, IS_INT8>& selection,
                            const Decoder<IS_INT8>& decoder,
                            const TileScales<Element, IS_INT8, NESTED, GRANULE>& scales, int step,
                            Element* out) {
  using At = Layout<Element, IS_INT8>;
  const uint2 runs[2] = {{codes.x, codes.y}, {codes.z, codes.w}};
  uint32_t sums[2][2][4];  // of a run and a column
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int run = i / 2, byte = i % 2 * 2;
    const uint4 sum = multiply_bytes<IS_INT8>(selection.rows[i % 2], runs[run], decoder.start);
    sums[run][0][byte] = sum.x, sums[run][1][byte] = sum.y;
    sums[run][0][byte + 1] = sum.z, sums[run][1][byte + 1] = sum.w;
  }
  float scale = 0.0f;
#pragma unroll
  for (int i = 0; i < 4 * At::NUM_STORES; ++i) {
    const int column = i / (2 * At::NUM_STORES), store = i / 2 % At::NUM_STORES, run = i % 2;
    const int behind = At::behind(column, store, run);
    if (behind % GRANULE == 0) scale = scales.at(step, behind);
    float values[At::VALUES];
#pragma unroll
    for (int j = 0; j < At::STORE; ++j) {
      decoder.decode(sums[run][column][store * At::STORE + j], values + j * At::PER_BYTE);
    }
#pragma unroll
    for (float& value : values) value *= scale;
    store_vector(out + behind, values);
  }
}

// Values first, first + stride, ... one by one: what is no whole tile, or not aligned.
template <class Element, bool IS_INT8, bool NESTED>
__device__ void decode_rest(const Weight& weight, int64_t first, int64_t stride, Element* out) {
  using Stored = StoredScale<NESTED>;
  for (int64_t i = first; i < weight.size(); i += stride) {
    const auto block = static_cast<uint32_t>(i >> weight.block_shift);
    const auto stored = Stored::load(weight.scales, block, block);
    const float value = IS_INT8 ? static_cast<float>(static_cast<signed char>(weight.codes[i]))
                                : weight.codebook[nibble_at(weight.codes, i)];
    const float scale = scale_of<IS_INT8>(stored, Stored::offset(weight.scales));
    out[i] = from_float<Element>(value * scale);
  }
}

template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
__global__ void __launch_bounds__(NUM_THREADS, RESIDENT)
    dequantize_kernel(const __grid_constant__ Weight weight, Element* out, int num_tiles) {
  using At = Layout<Element, IS_INT8>;
  const Decoder<IS_INT8> decoder(weight);
  const Selection<Element, IS_INT8> selection;
  const float offset = StoredScale<NESTED>::offset(weight.scales);
  // Warps of neighbouring blocks take neighbouring tiles: a rest falls on all multiprocessors.
  const int stride = gridDim.x * NUM_WARPS;
  for (int tile = warp_id() * gridDim.x + blockIdx.x; tile < num_tiles; tile += stride) {
    const uint8_t* first = weight.codes + int64_t{tile} * TILE_BYTES;
    uint4 codes[NUM_STEPS];
#pragma unroll
    for (int i = 0; i < NUM_STEPS; ++i) {
      codes[i] = reinterpret_cast<const uint4*>(first + i * STEP_BYTES)[lane_id()];
    }
    const TileScales<Element, IS_INT8, NESTED, GRANULE> scales(weight, offset, tile);
    Element* target = out + int64_t{tile} * At::TILE + At::first();
#pragma unroll
    for (int i = 0; i < NUM_STEPS; ++i) {
      decode_step(codes[i], selection, decoder, scales, i, target + i * At::STEP);
    }
  }
  const int64_t thread = int64_t{blockIdx.x} * NUM_THREADS + threadIdx.x;
  decode_rest<Element, IS_INT8, NESTED>(weight, int64_t{num_tiles} * At::TILE + thread,
                                        int64_t{gridDim.x} * NUM_THREADS, out);
}

template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
void launch_dequantize(const Weight& weight, Element* out, cudaStream_t stream) {
  constexpr const char* OP = "dequantize";
  constexpr int64_t TILE = Layout<Element, IS_INT8>::TILE;
  const bool is_aligned = is_multiple_of_16(weight.codes) && is_multiple_of_16(out);
  const int64_t num_tiles = is_aligned ? weight.size() / TILE : 0;
  const int64_t rest = weight.size() - num_tiles * TILE;
  const int64_t wanted = std::max(num_tiles, num_blocks(rest, NUM_THREADS));
  const auto blocks = std::min(wanted, int64_t{RESIDENT} * num_multiprocessors(OP));
  launch({OP, static_cast<unsigned>(blocks), NUM_THREADS, 0, stream},
         dequantize_kernel<Element, IS_INT8, NESTED, GRANULE>, weight, out,
         static_cast<int>(num_tiles));
}
