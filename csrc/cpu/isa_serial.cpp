// Every kernel body for the baseline of the architecture: what runs where nothing else does.
#include "isa_headers.h"

namespace qlora::cpu {
namespace serial {

#include "simd_serial.inl"
#include "simd.inl"
#include "tiles_none.inl"
#include "pairs_none.inl"
#include "code_blocks_serial.inl"
#include "codebook_table.inl"
#include "word_encoder_none.inl"
#include "state_vectors.inl"
#include "bodies.inl"

}  // namespace serial

const Kernels serial_kernels = serial::table("serial", [] { return true; });

}  // namespace qlora::cpu
