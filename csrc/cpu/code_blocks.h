// Blocks of codes that are multiplied with rows of x at once: what all instruction sets share.
// Each has its own code_blocks_*.inl, which says how many rows of x share a decoding and how many
// bytes ahead codes are asked for: into L1, and (or 0) into L2. Its classes of blocks say how many
// are taken TOGETHER, whether rows of x are OF_WORDS with scales of their own, and how many
// columns(rows) of W^T meet so many rows of x at once.
#pragma once

#include <cstdint>

namespace qlora::cpu {

constexpr int64_t BLOCK_CODES = 64;

// Of 16-bit values as whole numbers: the eight products that one lane of 32 bits sums fit into it.
constexpr float LARGEST_WORD = 16383.0f;

// The blocks that are multiplied together: of some columns of W^T, and of some rows of x.
template <class Value>
struct MetBlocks {
  const uint8_t* codes;
  int64_t codes_stride;                     // from column to column
  const Value* values;                      // those of a row follow those of the row before
  const float* scales;                      // of each block of a column, or of a row and a column
  int64_t scales_of_row, scales_of_column;  // strides
  int64_t count;                            // of blocks, where some are lacking
};

// The same blocks of some rows of W, each with its scales, and what each row is multiplied with.
// How many rows of W are taken together each instruction set says, too.
struct WeightedBlocks {
  const uint8_t* codes;
  const float* scales;
  int64_t codes_stride, scales_stride;  // from row of W to row of W
  const float* factors;                 // [rows of W, rows of sums]
};

}  // namespace qlora::cpu
