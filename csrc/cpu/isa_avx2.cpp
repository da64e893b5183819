// Every kernel body once more, for AVX2 + FMA + F16C. Each #include of a header stands above the
// pragma: a header's inline function compiled under it could be the copy that the linker keeps for
// the baseline too, and would then fail on machines without AVX2.
#if defined(__x86_64__)

#include "isa_headers.h"

#include <immintrin.h>

namespace qlora::cpu {
namespace {
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
}  // namespace
}  // namespace qlora::cpu

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace qlora::cpu {
namespace avx2 {

#include "simd_avx2.inl"
#include "simd.inl"
#include "tiles_none.inl"
#include "pairs_none.inl"
#include "code_blocks_avx2.inl"
#include "codebook_table_avx2.inl"
#include "word_units.inl"
#include "word_encoder_avx2.inl"
#include "state_vectors.inl"
#include "bodies.inl"

}  // namespace avx2

const Kernels avx2_kernels = avx2::table("avx2", has_avx2);

}  // namespace qlora::cpu

#pragma GCC pop_options

#endif
