// Whole tiles from rows of floats or bf16 as they lie in memory: sixteen bytes of each row at a
// time are transposed in registers, as words of 32 bits, which are floats or pairs of bf16.

// As many rows as a tile has, at one distance; the lanes beyond are the first rows again. From
// three rows the others are an address away. No lambda: gather_words says why.
struct TileRows {
  static_assert(TILE_ROWS == 12);
  const uint8_t* quarters[4];
  int64_t row_bytes;

  TileRows(const void* source, int64_t bytes) : row_bytes(bytes) {
    const auto* first = static_cast<const uint8_t*>(source);
    for (int i = 0; i < 4; ++i) quarters[i] = first + i % 3 * 4 * bytes;
  }
  const uint8_t* operator()(int row) const { return quarters[row / 4] + row % 4 * row_bytes; }
};

// Calls body(word) with the words of the rows in turn; of the last one only what num_bytes counts
// is read, and the rest is zero.
template <class Body>
inline void for_words(TileRows rows, int64_t num_bytes, const Body& body) {
  constexpr int64_t STEP = 16, WORD = 4;
  Words words[4];
  for (; num_bytes >= STEP; num_bytes -= STEP) {
    gather_words(rows, words);
    for (const uint8_t*& quarter : rows.quarters) quarter += STEP;
#pragma GCC unroll 4
    for (const Words word : words) body(word);
  }
  if (num_bytes == 0) return;
  uint8_t last[TILE_ROWS][STEP] = {};
  for (int i = 0; i < TILE_ROWS; ++i) {
    std::memcpy(last[i], rows(i), static_cast<size_t>(num_bytes));
  }
  gather_words(TileRows(last, STEP), words);
  for (int i = 0; i * WORD < num_bytes; ++i) body(words[i]);
}

inline void store_tile_row(float* target, Words values) {
  constexpr __mmask16 ROWS = (1 << TILE_ROWS) - 1;
  _mm512_mask_storeu_ps(target, ROWS, reinterpret_cast<__m512>(values));
}

// tile[d][i] = element d of row i, or the pair of 2 d and 2 d + 1; for each element type whether it
// is done.
inline bool pack_whole_tile(const float* rows, int64_t stride, int64_t depth, bool, float* tile) {
  constexpr int64_t BYTES = sizeof *rows;
  for_words({rows, stride * BYTES}, depth * BYTES, [&](Words word) {
    store_tile_row(tile, word);
    tile += TILE_ROWS;
  });
  return true;
}
inline bool pack_whole_tile(const BFloat16* rows, int64_t stride, int64_t depth, bool paired,
                            float* tile) {
  constexpr int64_t BYTES = sizeof *rows;
  if (paired) {
    for_words({rows, stride * BYTES}, depth * BYTES, [&](Words word) {
      store_tile_row(tile, word);
      tile += TILE_ROWS;
    });
    return true;
  }
  const float* const end = tile + depth * TILE_ROWS;
  for_words({rows, stride * BYTES}, depth * BYTES, [&](Words word) {
    store_tile_row(tile, word << 16);
    if (tile + TILE_ROWS < end) store_tile_row(tile + TILE_ROWS, word & 0xffff0000u);
    tile += 2 * TILE_ROWS;
  });
  return true;
}
inline bool pack_whole_tile(const Float16*, int64_t, int64_t, bool, float*) {
  return false;
}
