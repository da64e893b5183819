// The walk of a weight through tensor cores, for 16-bit x; qlora_linear.cu tells it as a whole.
#pragma once

#include "device_weight.h"
#include "few_rows.h"
#include "shared.h"
#include "tensor_core.h"

namespace qlora::cuda {

constexpr int SCALED_COLUMNS = 64;  // share a scale: no block is shorter and none straddles them
constexpr int PANEL_BLOCKS = 16;    // of so many columns, whose scales are decoded together

struct alignas(16) Words {
  uint32_t word[4];
};

// 16 bytes that nobody reads again, and 16 that other warps read too.
__device__ __forceinline__ Words read_once(const void* from) {
  const uint4 words = __ldcs(static_cast<const uint4*>(from));
  return {{words.x, words.y, words.z, words.w}};
}

__device__ __forceinline__ Words read_shared(const void* from) {
  const uint4 words = __ldg(static_cast<const uint4*>(from));
  return {{words.x, words.y, words.z, words.w}};
}

// What lies in shared memory: 256 rows, one for each byte of 4-bit codes. The left half of a row
// has the byte's pair of values once for each bank, so that a lane reads its own copy and 32
// look-ups of whatever bytes never wait for each other. The right halves, in between, hold what
// warps pass on.
struct PairRow {
  uint32_t pair[WARP];
  union {
    float4 scales[8];   // row 16 warp + block: of rows g, g + 8, g + 16 and g + 24 of the strip
    float sums[STRIP];  // row 128 + 16 warp + token
  };
};

struct ByteRow {
  union {
    float4 scales[8];
    float sums[STRIP];
  };
};

// 4-bit codes: a byte and the lane's bank, put side by side, are the address of its two values.
struct Nibbles {
  static constexpr int BITS = 4;
  using Row = PairRow;

  template <class Element>
  static __device__ void fill(Row* rows, const float* values) {
    for (int place = static_cast<int>(threadIdx.x); place < (1 << 8) * WARP; place += THREADS) {
      const int byte = place / WARP;
      rows[byte].pair[place % WARP] = pack_exact<Element>(values[byte >> 4], values[byte & 15]);
    }
  }

  // Columns 2 PART and 2 PART + 1 of the word's eight.
  template <class Element>
  static __device__ __forceinline__ uint32_t pair(const Row* rows, uint32_t word, int part) {
    static_assert(sizeof(Row) == 1 << 8);
    const uint32_t bank = 4 * (threadIdx.x % WARP);
    const uint32_t offset = __byte_perm(word, bank, 0x5504u + (static_cast<uint32_t>(part) << 4));
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(rows) + offset);
  }
};

// int8 codes are their values: a byte placed in a float's bits makes it 2^23 + 128 + code.
__device__ __forceinline__ float value_of_byte(uint32_t word, int number) {
  constexpr uint32_t TWO_TO_23 = 0x4b000000u;
  constexpr float OFFSET = 8388608.0f + 128.0f;
  const auto picked = 0x7440u + static_cast<uint32_t>(number);
  return float_of(__byte_perm(word ^ 0x80808080u, TWO_TO_23, picked)) - OFFSET;
}

struct Bytes {
  static constexpr int BITS = 8;
  using Row = ByteRow;

  template <class Element>
  static __device__ void fill(Row*, const float*) {}

  template <class Element>
  static __device__ __forceinline__ uint32_t pair(const Row*, uint32_t word, int part) {
    const float low = value_of_byte(word, 2 * part), high = value_of_byte(word, 2 * part + 1);
    return pack_exact<Element>(low, high);
  }
};

template <class Element, class Codes, int TILES>
struct TensorWalk {
  static constexpr int LANE = 128 / Codes::BITS;        // columns of a lane's 16 bytes
  static constexpr int STEP = 4 * LANE;                 // and of a quad's
  static constexpr int BLOCKS = STEP / SCALED_COLUMNS;  // of them, each with its scales
  static constexpr int TOKENS = 8 / BLOCKS;             // rows of x in a tile
  static constexpr int PANEL = PANEL_BLOCKS / BLOCKS;   // steps of a panel
  static constexpr int PARTS = LANE / 8;                // 16 bytes of x that a lane needs of a step
  static constexpr int PARTS_HELD = TILES == 2 ? 2 : PARTS;            // of them in registers
  static constexpr int BLOCKS_PER_MULTIPROCESSOR = TILES < 4 ? 2 : 1;  // what registers allow
  static constexpr size_t SHARED_BYTES = sizeof(typename Codes::Row) << 8;

  const LinearTask& task;
  typename Codes::Row* const rows = dynamic_shared<typename Codes::Row>();
  const int64_t row;  // the strip's first
  const Share share;
  const int lane = lane_of_warp(), warp = warp_of_block(), g = lane / 4, t = lane % 4;
  int last;  // step that the lane has columns in, plus one: a row may end within the last step
  const uint8_t* codes[4];  // the lane's bytes of rows g, g + 8, g + 16 and g + 24
  const Element* x =
      static_cast<const Element*>(task.x.data);  // the lane's elements of its row in the first tile
  int num_tiles = 0;                             // whose rows it reads; x stays zero in the others
  Words even[4] = {}, odd[4] = {};               // codes on their way
  Words part[PARTS_HELD][TILES] = {};
  float total[2][TILES][4] = {};

  __device__ TensorWalk(const LinearTask& task, int64_t row, Share share)
      : task(task), row(row), share(share) {
    const Weight& w = task.weight;
    const int lane_steps = (static_cast<int>(w.k) - t * LANE + STEP - 1) / STEP;
    last = min(share.last, lane_steps);
    for (int i = 0; i < 4; ++i) {  // Rows beyond the last are read as the last, and not written.
      const int64_t own = min(row + g + 8 * i, w.n - 1);
      codes[i] = w.codes + (own * w.k + share.first * STEP + t * LANE) * Codes::BITS / 8;
    }
    const int token = g % TOKENS, rows_of_x = static_cast<int>(task.x.rows);
    if (token < rows_of_x && g / TOKENS == t * LANE / SCALED_COLUMNS) {
      num_tiles = (rows_of_x - token + TOKENS - 1) / TOKENS;
      x = static_cast<const Element*>(task.x.data) + token * task.x.stride;
      x += share.first * STEP + t * LANE;
    }
    read_codes(share.first, 0, even);
    read_codes(share.first + 1, 1, odd);
  }

  // Codes of a step, `ahead` of where the pointers stand.
  __device__ __forceinline__ void read_codes(int step, int ahead, Words (&into)[4]) const {
    if (step >= last) return;
    for (int i = 0; i < 4; ++i) into[i] = read_once(codes[i] + ahead * (STEP * Codes::BITS / 8));
  }

  __device__ void prepare() { Codes::template fill<Element>(rows, task.weight.codebook); }

  __device__ void decode_scales(int panel) {
    const Weight& w = task.weight;
    __syncwarp();
    for (int place = lane; place < PANEL_BLOCKS * STRIP; place += WARP) {
      const int block = place % PANEL_BLOCKS, own = place / PANEL_BLOCKS;
      const int64_t column = int64_t{panel} * STEP + block * SCALED_COLUMNS;
      const bool is_there = column < w.k && row + own < w.n;
      float* const scales = reinterpret_cast<float*>(rows[PANEL_BLOCKS * warp + block].scales);
      scales[own % 8 * 4 + own / 8] = is_there ? scale_at(task, (row + own) * w.k + column) : 0.0f;
    }
    __syncwarp();
  }

  __device__ __forceinline__ void read_x(int step, int ahead, int first_part) {
    for (int tile = 0; tile < TILES; ++tile) {
      if (step >= last || tile >= num_tiles) continue;
      const Element* const first = x + tile * TOKENS * task.x.stride + ahead * STEP;
      for (int i = 0; i < PARTS_HELD; ++i) {
        part[i][tile] = read_shared(first + 8 * (first_part + i));
      }
    }
  }

  // total += W x over the columns of a step, `ahead` of where the pointers stand.
  __device__ __forceinline__ void multiply(int step, int ahead, const float4& scale,
                                           const Words (&words)[4]) {
    float sums[2][TILES][4] = {};
#pragma unroll
    for (int i = 0; i < LANE / 4; ++i) {  // four columns of the lane's
      constexpr int PER_WORD = 8 / Codes::BITS;
      const int word = i / PER_WORD, first = i % PER_WORD * 2;
      if (i % (2 * PARTS_HELD) == 0) read_x(step, ahead, i / 2);
      for (int upper = 0; upper < 2; ++upper) {
        const uint32_t low = words[2 * upper].word[word], high = words[2 * upper + 1].word[word];
        const uint32_t w[4] = {Codes::template pair<Element>(rows, low, first),
                               Codes::template pair<Element>(rows, high, first),
                               Codes::template pair<Element>(rows, low, first + 1),
                               Codes::template pair<Element>(rows, high, first + 1)};
        for (int tile = 0; tile < TILES; ++tile) {
          const Words& columns = part[i / 2 % PARTS_HELD][tile];
          multiply_add<Element>(sums[upper][tile], w, columns.word[i % 2 * 2],
                                columns.word[i % 2 * 2 + 1]);
        }
      }
    }
    // Where the row has ended for a lane, its sums are those of the same columns: left out.
    if (step >= last) return;
    for (int tile = 0; tile < TILES; ++tile) {
      add_scaled(sums[0][tile], scale.x, scale.y, total[0][tile]);
      add_scaled(sums[1][tile], scale.z, scale.w, total[1][tile]);
    }
  }

  __device__ void walk() {
    const int block = 2 * t / TOKENS;  // of the sums that the lane holds
    for (int panel = share.first; panel < share.last; panel += PANEL) {
      decode_scales(panel);
      const int end = min(panel + PANEL, share.last);
      const typename Codes::Row* scales = rows + PANEL_BLOCKS * warp + block;
#pragma unroll 1
      for (int step = panel; step < end; step += 2, scales += 2 * BLOCKS) {
        multiply(step, 0, scales->scales[g], even);
        read_codes(step + 2, 2, even);
        if (step + 1 < end) {
          multiply(step + 1, 1, scales[BLOCKS].scales[g], odd);
          read_codes(step + 3, 3, odd);
        }
        for (int i = 0; i < 4; ++i) codes[i] += 2 * STEP * Codes::BITS / 8;
        x += 2 * STEP;
      }
    }
    store();
  }

  static __device__ __forceinline__ void add_scaled(const float (&sums)[4], float low, float high,
                                                    float (&into)[4]) {
    into[0] = __fmaf_rn(sums[0], low, into[0]);
    into[1] = __fmaf_rn(sums[1], low, into[1]);
    into[2] = __fmaf_rn(sums[2], high, into[2]);
    into[3] = __fmaf_rn(sums[3], high, into[3]);
  }

  // With two blocks, lanes t and t + 2 hold the sums of either for the same rows of x.
  __device__ void store() {
    for (int upper = 0; upper < 2; ++upper) {
      for (int tile = 0; tile < TILES; ++tile) {
        for (int i = 0; i < 4; ++i) {
          float sum = total[upper][tile][i];
          if (BLOCKS == 2) sum += __shfl_xor_sync(~0u, sum, 2);
          const int token = tile * TOKENS + 2 * t % TOKENS + i % 2;
          if (BLOCKS == 1 || t < 2) sums_of(warp, token)[16 * upper + g + i / 2 * 8] = sum;
        }
      }
    }
  }

  // What a warp has summed for a row of x, by rows of its strip.
  __device__ float* sums_of(int of_warp, int token) const {
    return rows[(NUM_WARPS + of_warp) * LINEAR_MAX_ROWS + token].sums;
  }
};

}  // namespace qlora::cuda
