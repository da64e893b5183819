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
#include "launchers.h"

#include <algorithm>

#include "element.h"
#include "launch.h"
#include "scales.h"
#include "shared.h"

namespace qlora::cuda {
namespace {

constexpr int WARP = 32, NUM_WARPS = 16, NUM_THREADS = WARP * NUM_WARPS;
constexpr int ROW_BYTES = 256, NUM_ROWS = 256, COPIES = 16;
constexpr int PAIR_BYTES = sizeof(float2), COPIES_BYTES = COPIES * PAIR_BYTES;
constexpr int PIECE = ROW_BYTES - COPIES_BYTES;  // bytes of codes that a row has room for
constexpr int TILE_BYTES = 1024, TILE_ROWS = TILE_BYTES / PIECE, NUM_BUFFERS = 2;
static_assert(NUM_WARPS * NUM_BUFFERS * TILE_ROWS == NUM_ROWS, "the codes fit beside the table");
constexpr int GROUP = 8;  // values that a lane decodes and stores at once
constexpr int MAX_SCALES = 64;

template <bool IS_INT8>
constexpr int TILE = TILE_BYTES * (IS_INT8 ? 1 : 2);  // values

struct Shared {
  alignas(1024) unsigned char rows[NUM_ROWS][ROW_BYTES];
  float scales[NUM_WARPS][MAX_SCALES];  // of a warp's tile
};

__device__ unsigned lane_id() {
  return threadIdx.x % WARP;
}
__device__ unsigned warp_id() {
  return threadIdx.x / WARP;
}

// The values of every byte of two codes, the high one first, in COPIES copies.
__device__ void fill_table(Shared& shared, const Weight& weight) {
  for (int i = threadIdx.x; i < NUM_ROWS * COPIES; i += NUM_THREADS) {
    const int byte = i / COPIES;
    const float2 pair{weight.codebook[byte >> 4], weight.codebook[byte & 15]};
    *reinterpret_cast<float2*>(&shared.rows[byte][i % COPIES * PAIR_BYTES]) = pair;
  }
}

// Starts the copy of a tile's codes into the buffer of this warp.
__device__ void fetch_codes(Shared& shared, const uint8_t* codes, int buffer) {
  const int first_row = (warp_id() * NUM_BUFFERS + buffer) * TILE_ROWS;
  for (int chunk = lane_id(); chunk < TILE_BYTES / 16; chunk += WARP) {
    const int row = first_row + chunk / (PIECE / 16), column = chunk % (PIECE / 16) * 16;
    copy_async_16(&shared.rows[row][COPIES_BYTES + column], codes + chunk * 16);
  }
  commit_copies();
}

// The eight values of a word of 4-bit codes, not yet scaled.
__device__ void look_up(const Shared& shared, uint32_t codes, unsigned copy, float* values) {
  constexpr unsigned SELECTORS[] = {0x5504, 0x5514, 0x5524, 0x5534};  // (copy, byte i, 0, 0)
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned offset = __byte_perm(codes, copy, SELECTORS[i]);
    const float2 pair = *reinterpret_cast<const float2*>(&shared.rows[0][0] + offset);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

template <class Element>
__device__ void store_scaled(const float* values, float scale, Element* out) {
  Eight<Element> eight;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    eight.pairs[i] = Pair<Element>::rounded(values[2 * i] * scale, values[2 * i + 1] * scale);
  }
  *reinterpret_cast<Eight<Element>*>(out) = eight;
}

// The rest of a tile's work once its codes and scales are in shared memory.
template <class Element, bool IS_INT8, int GRANULE>
__device__ void decode_tile(const Shared& shared, int buffer, Element* out) {
  const unsigned lane = lane_id(), warp = warp_id();
  const int first_row = (warp * NUM_BUFFERS + buffer) * TILE_ROWS;
  const unsigned copy = lane % COPIES * PAIR_BYTES;
#pragma unroll
  for (int i = 0; i < TILE<IS_INT8> / (WARP * GROUP); ++i) {
    const int first = i * WARP * GROUP + lane * GROUP;
    const float scale = shared.scales[warp][i * (WARP * GROUP / GRANULE) + lane * GROUP / GRANULE];
    float values[GROUP];
    if constexpr (IS_INT8) {
      const int row = first_row + 2 * i + lane / 16;
      const auto* bytes =
          reinterpret_cast<const signed char*>(&shared.rows[row][COPIES_BYTES + lane % 16 * GROUP]);
      const uint2 words = *reinterpret_cast<const uint2*>(bytes);
#pragma unroll
      for (int j = 0; j < GROUP; ++j) {
        const unsigned word = j < 4 ? words.x : words.y;
        values[j] = static_cast<float>(static_cast<signed char>(word >> (8 * (j % 4))));
      }
    } else {
      const unsigned char* place = &shared.rows[first_row + i][COPIES_BYTES + lane * 4];
      look_up(shared, *reinterpret_cast<const uint32_t*>(place), copy, values);
    }
    store_scaled(values, scale, out + first);
  }
}

template <bool IS_INT8, bool NESTED>
__device__ float scale_at(const Weight& weight, StoredScale<NESTED> stored) {
  const float absmax = stored.decode(weight.scales);
  return IS_INT8 ? int8_step(absmax) : absmax;
}

// Values first, first + stride, ... of what is no whole tile, one by one.
template <class Element, bool IS_INT8, bool NESTED>
__device__ void decode_rest(const Weight& weight, int64_t first, int64_t stride, Element* out) {
  for (int64_t i = first; i < weight.size(); i += stride) {
    const auto stored = StoredScale<NESTED>::load(weight.scales, i >> weight.block_shift);
    const float value = IS_INT8 ? static_cast<float>(static_cast<signed char>(weight.codes[i]))
                                : weight.codebook[nibble_at(weight.codes, i)];
    const float scaled = value * scale_at<IS_INT8>(weight, stored);
    out[i] = from_float<Element>(scaled);
  }
}

template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
__global__ void __launch_bounds__(NUM_THREADS, 1)
    dequantize_kernel(const __grid_constant__ Weight weight, Element* out, int64_t num_tiles) {
  constexpr int64_t SIZE = TILE<IS_INT8>;
  constexpr int NUM_SCALES = SIZE / GRANULE, PER_LANE = (NUM_SCALES + WARP - 1) / WARP;
  Shared& shared = *dynamic_shared<Shared>();
  const unsigned lane = lane_id(), warp = warp_id();
  const int64_t stride = int64_t{gridDim.x} * NUM_WARPS;
  StoredScale<NESTED> stored[PER_LANE];
  const auto fetch = [&](int64_t tile, int buffer) {
    fetch_codes(shared, weight.codes + tile * TILE_BYTES, buffer);
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
      const int64_t first = tile * SIZE + (lane + i * WARP) % NUM_SCALES * GRANULE;
      stored[i] = StoredScale<NESTED>::load(weight.scales, first >> weight.block_shift);
    }
  };

  int64_t tile = int64_t{blockIdx.x} * NUM_WARPS + warp;
  if (tile < num_tiles) fetch(tile, 0);
  if constexpr (!IS_INT8) fill_table(shared, weight);
  __syncthreads();
  for (int buffer = 0; tile < num_tiles; tile += stride, buffer ^= 1) {
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
      const float scale = scale_at<IS_INT8>(weight, stored[i]);
      if (lane + i * WARP < NUM_SCALES) shared.scales[warp][lane + i * WARP] = scale;
    }
    wait_for_copies<0>();
    __syncwarp();
    if (tile + stride < num_tiles) fetch(tile + stride, buffer ^ 1);
    decode_tile<Element, IS_INT8, GRANULE>(shared, buffer, out + tile * SIZE);
    __syncwarp();
  }
  const int64_t thread = int64_t{blockIdx.x} * NUM_THREADS + threadIdx.x;
  decode_rest<Element, IS_INT8, NESTED>(weight, num_tiles * SIZE + thread,
                                        int64_t{gridDim.x} * NUM_THREADS, out);
}

template <class Element, bool IS_INT8, bool NESTED, int GRANULE>
void launch_dequantize(const Weight& weight, Element* out, cudaStream_t stream) {
  constexpr const char* OP = "dequantize";
  const auto kernel = dequantize_kernel<Element, IS_INT8, NESTED, GRANULE>;
  const bool is_aligned =
      (reinterpret_cast<uintptr_t>(weight.codes) | reinterpret_cast<uintptr_t>(out)) % 16 == 0;
  const int64_t num_tiles = is_aligned ? weight.size() / TILE<IS_INT8> : 0;
  const int64_t rest = weight.size() - num_tiles * TILE<IS_INT8>;
  const int64_t wanted =
      std::max((num_tiles + NUM_WARPS - 1) / NUM_WARPS, (rest + NUM_THREADS - 1) / NUM_THREADS);
  const int64_t resident = int64_t{3} * num_multiprocessors(OP);
  const auto blocks = static_cast<unsigned>(std::min(wanted, resident));
  launch({OP, blocks, NUM_THREADS, sizeof(Shared), stream}, kernel, weight, out, num_tiles);
}

// Calls body with std::bool_constant for a run-time choice.
template <class Body>
void choose(bool value, const Body& body) {
  value ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace

void dequantize(const Weight& weight, const Output& out, cudaStream_t stream) {
  dispatch(out.type, [&](auto* tag) {
    auto* target = static_cast<decltype(tag)>(out.data);
    using Element = std::remove_pointer_t<decltype(tag)>;
    choose(weight.is_int8, [&](auto is_int8) {
      choose(weight.scales.nested_absmax != nullptr, [&](auto nested) {
        choose(weight.block_shift > 5, [&](auto is_long) {
          launch_dequantize<Element, is_int8.value, nested.value, is_long.value ? 64 : 32>(
              weight, target, stream);
        });
      });
    });
  });
}

}  // namespace qlora::cuda
