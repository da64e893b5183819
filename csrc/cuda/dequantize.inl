// dequantize: codes and scales in, values out, in one pass over memory.
//
// A warp decodes tiles of TILE_BYTES of codes. While it works on one, the next is on its way to
// shared memory, 16 bytes per lane and copy; each lane then reads the codes of eight neighbouring
// values, so that a warp's 16-byte stores touch memory in one run.
//
// Two codes at a time are looked up: a byte is the row of a table of all 256 pairs of values. A row
// is as wide as a byte of an address can count, and so one byte permute makes the address of a
// look-up:
//
//   row of ROW_BYTES | copy 0 .. copy 15 of the pair (8 bytes each) | 128 bytes of codes in transit
//   |
//                      a half-warp reads one copy each: no bank twice
//   address          = table + (byte << 8 | lane % 16 << 3)
constexpr int NUM_WARPS = 16, NUM_THREADS = WARP * NUM_WARPS;
constexpr int ROW_BYTES = 256, NUM_ROWS = 256, COPIES = 16;
constexpr int PAIR_BYTES = sizeof(float2), COPIES_BYTES = COPIES * PAIR_BYTES;
constexpr int PIECE = ROW_BYTES - COPIES_BYTES;  // bytes of codes that a row has room for
constexpr int TILE_BYTES = 1024, TILE_ROWS = TILE_BYTES / PIECE, NUM_BUFFERS = 2;
static_assert(NUM_WARPS * NUM_BUFFERS * TILE_ROWS == NUM_ROWS, "the codes fit beside the table");
constexpr int GROUP = 8;  // values that a lane decodes and stores at once
constexpr int MAX_SCALES = 64;
constexpr int RESIDENT = 2;  // blocks on a multiprocessor, by their registers

template <bool IS_INT8>
constexpr int TILE = TILE_BYTES * (IS_INT8 ? 1 : 2);  // values

struct Shared {
  alignas(1024) unsigned char rows[NUM_ROWS][ROW_BYTES];
  float scales[NUM_WARPS][NUM_BUFFERS][MAX_SCALES];  // of a warp's tile
};

// The values of every byte of two codes, the high one first, in COPIES copies.
__device__ void fill_table(Shared& shared, const Weight& weight) {
  for (int i = threadIdx.x; i < NUM_ROWS * COPIES; i += NUM_THREADS) {
    const int byte = i / COPIES;
    const float2 pair{weight.codebook[byte >> 4], weight.codebook[byte & 15]};
    *reinterpret_cast<float2*>(&shared.rows[byte][i % COPIES * PAIR_BYTES]) = pair;
  }
}

// Where a lane's part of a warp's codes goes, and comes from: 16 bytes in each of TILE_BYTES / 512
// copies, of neighbouring rows.
constexpr int COPY = 16, LANES_PER_ROW = PIECE / COPY, ROWS_PER_COPY = WARP / LANES_PER_ROW;

__device__ void fetch_codes(unsigned char* rows, const uint8_t* codes) {
#pragma unroll
  for (int i = 0; i < TILE_ROWS / ROWS_PER_COPY; ++i) {
    copy_async_16(rows + i * ROWS_PER_COPY * ROW_BYTES, codes + i * WARP * COPY);
  }
  commit_copies();
}

// The eight values of a word of 4-bit codes, not yet scaled.
__device__ void look_up(uint32_t codes, uint32_t copy, float (&values)[GROUP]) {
  constexpr unsigned SELECTORS[] = {0x5504, 0x5514, 0x5524, 0x5534};  // (copy, byte i, 0, 0)
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t offset = __byte_perm(codes, copy, SELECTORS[i]);
    const float2 pair = load_dynamic_pair(offset);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

// The eight values of two words of int8 codes.
__device__ void widen(uint2 codes, float (&values)[GROUP]) {
#pragma unroll
  for (int i = 0; i < GROUP; ++i) {
    const uint32_t word = i < 4 ? codes.x : codes.y;
    values[i] = static_cast<float>(static_cast<signed char>(word >> (8 * (i % 4))));
  }
}

// The rest of a tile's work once its codes and scales are in shared memory: each lane decodes and
// stores GROUP neighbouring values at a time. All three point to the lane's first.
template <class Element, bool IS_INT8, int GRANULE>
__device__ void decode_tile(const unsigned char* codes, const float* scales, Element* out) {
  const uint32_t copy = lane_id() % COPIES * PAIR_BYTES;
#pragma unroll
  for (int i = 0; i < TILE<IS_INT8> / (WARP * GROUP); ++i) {
    float values[GROUP];
    if constexpr (IS_INT8) {
      widen(*reinterpret_cast<const uint2*>(codes + i * 2 * ROW_BYTES), values);
    } else {
      look_up(*reinterpret_cast<const uint32_t*>(codes + i * ROW_BYTES), copy, values);
    }
    const float scale = scales[i * (WARP * GROUP / GRANULE)];
#pragma unroll
    for (float& value : values) value *= scale;
    store_eight(out + i * WARP * GROUP, values);
  }
}

// What a code's value is multiplied by.
template <bool IS_INT8, bool NESTED>
__device__ float scale_of(StoredScale<NESTED> stored, float offset) {
  const float absmax = stored.decode(offset);
  return IS_INT8 ? int8_step(absmax) : absmax;
}

// Values first, first + stride, ... one by one: what is no whole tile, or not aligned.
template <class Element, bool IS_INT8, bool NESTED>
__device__ void decode_rest(const Weight& weight, int64_t first, int64_t stride, Element* out) {
  using Stored = StoredScale<NESTED>;
  for (int64_t i = first; i < weight.size(); i += stride) {
    const auto stored = Stored::load(weight.scales, static_cast<uint32_t>(i >> weight.block_shift));
    const float value = IS_INT8 ? static_cast<float>(static_cast<signed char>(weight.codes[i]))
                                : weight.codebook[nibble_at(weight.codes, i)];
    const float scale = scale_of<IS_INT8>(stored, Stored::offset(weight.scales));
    out[i] = from_float<Element>(value * scale);
  }
}

// A lane's places in its warp's tiles; each moves on to the next tile once it has been used.
template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
struct Lane {
  static constexpr int SIZE = TILE<IS_INT8>, NUM_SCALES = SIZE / GRANULE;
  static constexpr int PER_LANE = (NUM_SCALES + WARP - 1) / WARP;
  static constexpr int BYTES = GROUP * TILE_BYTES / SIZE, PER_ROW = PIECE / BYTES;
  using Stored = StoredScale<NESTED>;

  int stride;            // in tiles
  int granule_shift;     // granules -> blocks
  float offset;          // of nested scales
  const uint8_t* codes;  // to fetch
  uint32_t granule;
  Element* out;
  unsigned char *arriving, *reading;  // codes of buffer 0 in shared memory
  float *shared_scales, *reading_scales;
  Stored stored[PER_LANE];  // of the tile that was fetched last

  __device__ Lane(Shared& shared, const Weight& weight, Element* output, int tile)
      : stride(gridDim.x * NUM_WARPS),
        granule_shift(weight.block_shift - std::bit_width(unsigned{GRANULE - 1})),
        offset(Stored::offset(weight.scales)) {
    const unsigned lane = lane_id(), warp = warp_id(), row = warp * NUM_BUFFERS * TILE_ROWS;
    codes = weight.codes + int64_t{tile} * TILE_BYTES + lane * COPY;
    granule = static_cast<uint32_t>(tile) * NUM_SCALES + lane;
    out = output + int64_t{tile} * SIZE + lane * GROUP;
    arriving = &shared.rows[row + lane / LANES_PER_ROW][COPIES_BYTES + lane % LANES_PER_ROW * COPY];
    reading = &shared.rows[row + lane / PER_ROW][COPIES_BYTES + lane % PER_ROW * BYTES];
    shared_scales = &shared.scales[warp][0][lane];
    reading_scales = &shared.scales[warp][0][lane * GROUP / GRANULE];
  }

  // A tile's codes on their way to a buffer, its scales to registers.
  __device__ void fetch(const Weight& weight, int buffer) {
    fetch_codes(arriving + buffer * TILE_ROWS * ROW_BYTES, codes);
    codes += int64_t{stride} * TILE_BYTES;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
      if (has(i)) stored[i] = Stored::load(weight.scales, (granule + i * WARP) >> granule_shift);
    }
    granule += stride * NUM_SCALES;
  }

  __device__ void share_scales(int buffer) const {
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
      const float scale = scale_of<IS_INT8>(stored[i], offset);
      if (has(i)) shared_scales[buffer * MAX_SCALES + i * WARP] = scale;
    }
  }

  __device__ void decode(int buffer) {
    decode_tile<Element, IS_INT8, GRANULE>(reading + buffer * TILE_ROWS * ROW_BYTES,
                                           reading_scales + buffer * MAX_SCALES, out);
    out += int64_t{stride} * SIZE;
  }

  __device__ bool has(int i) const { return lane_id() + i * WARP < NUM_SCALES; }
};

template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
__global__ void __launch_bounds__(NUM_THREADS, 2)
    dequantize_kernel(const __grid_constant__ Weight weight, Element* out, int num_tiles) {
  constexpr int64_t SIZE = TILE<IS_INT8>;
  Shared& shared = *dynamic_shared<Shared>();
  expect_dynamic_start();
  int tile = blockIdx.x * NUM_WARPS + warp_id();
  Lane<Element, IS_INT8, NESTED, GRANULE> lane(shared, weight, out, tile);
  if (tile < num_tiles) lane.fetch(weight, 0);
  if constexpr (!IS_INT8) fill_table(shared, weight);
  __syncthreads();
  const auto work = [&](int buffer) {
    lane.share_scales(buffer);
    wait_for_copies<0>();
    __syncwarp();  // The tile is here, and nobody reads the other buffer any more.
    tile += lane.stride;
    if (tile < num_tiles) lane.fetch(weight, buffer ^ 1);
    lane.decode(buffer);
  };
  while (tile < num_tiles) {
    work(0);
    if (tile >= num_tiles) break;
    work(1);
  }
  const int64_t thread = int64_t{blockIdx.x} * NUM_THREADS + threadIdx.x;
  decode_rest<Element, IS_INT8, NESTED>(weight, num_tiles * SIZE + thread,
                                        int64_t{gridDim.x} * NUM_THREADS, out);
}

template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
void launch_dequantize(const Weight& weight, Element* out, cudaStream_t stream) {
  constexpr const char* OP = "dequantize";
  const auto kernel = dequantize_kernel<Element, IS_INT8, NESTED, GRANULE>;
  const bool is_aligned = is_multiple_of_16(weight.codes) && is_multiple_of_16(out);
  const int64_t num_tiles = is_aligned ? weight.size() / TILE<IS_INT8> : 0;
  const int64_t rest = weight.size() - num_tiles * TILE<IS_INT8>;
  const int64_t wanted = std::max(num_blocks(num_tiles, NUM_WARPS), num_blocks(rest, NUM_THREADS));
  const auto blocks = std::min(wanted, int64_t{RESIDENT} * num_multiprocessors(OP));
  launch({OP, static_cast<unsigned>(blocks), NUM_THREADS, sizeof(Shared), stream}, kernel, weight,
         out, static_cast<int>(num_tiles));
}
