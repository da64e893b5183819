// What values of a block become: codes of a lane's eight, in a word.

constexpr int LANE_VALUES = 8;

// A codebook in shared memory, where lanes look up different entries; searched by halves.
struct SharedCodes {
  float thresholds[NUM_CODES - 1];
  uint32_t codes[NUM_CODES];  // by rank

  __device__ void fill(const Codebook& book) {
    if (threadIdx.x < NUM_CODES - 1) thresholds[threadIdx.x] = book.thresholds[threadIdx.x];
    if (threadIdx.x < NUM_CODES) codes[threadIdx.x] = book.order[threadIdx.x];
  }

  __device__ uint32_t rank(float scaled) const {
    uint32_t below = 0;
#pragma unroll
    for (int step = NUM_CODES / 2; step > 0; step /= 2) {
      if (scaled > thresholds[below + step - 1]) below += step;
    }
    return below;
  }
};

// x becomes what the codebook knows: full blocks are multiplied by the reciprocal of absmax, the
// short one is divided, as bitsandbytes does. Clamping to 1 would change no rank.
__device__ void scale_values(float (&x)[LANE_VALUES], float absmax, bool is_ragged) {
  const float factor = 1.0f / fmaxf(absmax, MIN_ABSMAX);
#pragma unroll
  for (float& value : x) value = is_ragged ? value / absmax : value * factor;
}

__device__ constexpr int shift_of(int i) {
  return i / 2 * 8 + (i % 2 == 0 ? 4 : 0);  // as pack_nibbles
}

__device__ uint32_t encode4(const SharedCodes& shared, const float (&x)[LANE_VALUES]) {
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < LANE_VALUES; ++i) word += shared.codes[shared.rank(x[i])] << shift_of(i);
  return word;
}

// Encoders are made by all threads of a block together.

// Of any codebook.
struct AnyCodes {
  using Word = uint32_t;
  struct Table {};
  const SharedCodes& shared;

  static Table table_of(const Codebook&) { return {}; }
  __device__ AnyCodes(const Codebook& book, const Table&) : shared(block_shared<SharedCodes>()) {
    block_shared<SharedCodes>().fill(book);
    __syncthreads();
  }
  __device__ Word operator()(float (&x)[LANE_VALUES], float absmax, bool is_ragged) const {
    scale_values(x, absmax, is_ragged);
    return encode4(shared, x);
  }
};

// Of a sorted codebook whose thresholds lie in different cells of an even grid: a value has to be
// compared with the one of its own cell. A cell is what a function that never falls makes of a
// value, so every threshold of a lower cell is below the value, and none of a higher one.
struct CellCodes {
  using Word = uint32_t;
  static constexpr int NUM_CELLS = 64;  // more than values in [-1, 1] reach: masks need no branch
  struct Table {
    float thresholds[NUM_CELLS];
    uint32_t ranks[NUM_CELLS];  // thresholds of lower cells

    // The cell's place in bytes: 1/16 of a value is a cell, four of the sum's last places.
    HOST_DEVICE static uint32_t offset_of(float x) {
      return bits_of(std::fma(x, 64.0f, 0x1.8p23f + 64.0f)) & (sizeof(float) * (NUM_CELLS - 1));
    }
  };
  const Table& table;

  static Table table_of(const Codebook& book) {
    Table table;
    for (int i = 0, rank = 0; i < NUM_CELLS; ++i) {
      table.ranks[i] = static_cast<uint32_t>(rank);
      table.thresholds[i] = INFINITY;
      if (rank < NUM_CODES - 1 && cell_of(book, rank) == i) {
        table.thresholds[i] = book.thresholds[rank++];
      }
    }
    return table;
  }
  static bool takes(const Codebook& book) {
    bool is_taken = book.is_sorted;
    for (int i = 0; i + 1 < NUM_CODES - 1; ++i) {
      is_taken = is_taken && cell_of(book, i) < cell_of(book, i + 1);
    }
    return is_taken;
  }
  static int cell_of(const Codebook& book, int threshold) {
    return static_cast<int>(Table::offset_of(book.thresholds[threshold]) / sizeof(float));
  }

  __device__ CellCodes(const Codebook&, const Table& known) : table(block_shared<Table>()) {
    Table& shared = block_shared<Table>();
    if (threadIdx.x < NUM_CELLS) {
      shared.thresholds[threadIdx.x] = known.thresholds[threadIdx.x];
      shared.ranks[threadIdx.x] = known.ranks[threadIdx.x];
    }
    __syncthreads();
  }
  __device__ Word operator()(float (&x)[LANE_VALUES], float absmax, bool is_ragged) const {
    scale_values(x, absmax, is_ragged);
    Word word = 0;
#pragma unroll
    for (int i = 0; i < LANE_VALUES; ++i) {
      const uint32_t cell = Table::offset_of(x[i]) / sizeof(float);
      word += table.ranks[cell] << shift_of(i);
      if (x[i] > table.thresholds[cell]) word += 1u << shift_of(i);
    }
    return word;
  }
};

struct Int8Codes {
  using Word = uint64_t;
  struct Table {};

  static Table table_of(const Codebook&) { return {}; }
  __device__ Int8Codes(const Codebook&, const Table&) {}
  __device__ Word operator()(const float (&x)[LANE_VALUES], float absmax, bool) const {
    const float step = int8_step(absmax);
    Word word = 0;
#pragma unroll
    for (int i = 0; i < LANE_VALUES; ++i) {
      word |= Word{static_cast<uint8_t>(encode_int8(x[i], step))} << (8 * i);
    }
    return word;
  }
};
