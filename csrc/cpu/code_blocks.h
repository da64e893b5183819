// Blocks of codes that are multiplied with rows of x at once: what all instruction sets share.
// Each has its own code_blocks_*.inl, which says how many blocks are taken together, how many rows
// of x share a decoding, whose sums must stay in registers, and how many bytes ahead codes are
// asked for: into L1, and (or 0) into L2.
#pragma once

#include <cstdint>

namespace qlora::cpu {

constexpr int64_t BLOCK_CODES = 64;

// Of 16-bit values as whole numbers: the eight products that one lane of 32 bits sums fit into it.
constexpr float LARGEST_WORD = 16383.0f;

// The blocks that are multiplied together, of some rows of x: the values of each row follow those
// of the one before, and each block has a scale.
template <class Value>
struct RowsOfBlocks {
  const Value* values;
  const float* scales;
  int64_t scale_stride;  // from row to row
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
