// One op per file, in the order in which they build on each other; included in a namespace per
// instruction set, below its vectors.

#include "decode.inl"
#include "state_codec.inl"
#include "scale_search.inl"
#include "quantize.inl"
#include "quantize_scales.inl"
#include "dequantize.inl"
#include "dropout_mask.inl"
#include "panels.inl"
#include "matmul.inl"
#include "words.inl"
#include "few_rows.inl"
#include "block_scales.inl"
#include "few_rows_by_blocks.inl"
#include "few_rows_to_rank.inl"
#include "qlora_linear.inl"
#include "few_rows_backward.inl"
#include "qlora_linear_backward.inl"
#include "dora_column_norm.inl"
#include "linear_cross_entropy.inl"
#include "adamw.inl"
#include "adamw_in_file.inl"
#include "adamw_step.inl"
#include "squared_norm.inl"

constexpr Kernels table(const char* name, bool (*runs_here)()) {
  return {name,         runs_here, quantize, quantize_scales,  quantize_nested,      dequantize,
          dropout_mask, forward,   backward, dora_column_norm, linear_cross_entropy, adamw_step,
          squared_norm};
}
