// Every kernel body once more, for AVX-512 (F, BW, DQ, VL), which includes AVX2 + FMA + F16C. Each
// #include of a header stands above the pragma: isa_avx2.cpp says why.
#if defined(__x86_64__)

#include "isa_headers.h"

#include <immintrin.h>

namespace qlora::cpu {
namespace {
// The builtin asks cpuid, and XCR0 whether the system saves the wide registers.
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#ifdef QLORA_EMULATION  // tests/native/emulation stands for the instructions
bool emulates_extensions = true;

bool multiplies_pairs_fast() {
  return emulates_extensions;
}
bool has_vbmi() {
  return emulates_extensions;
}
#else
// Zen 4 and later multiply pairs at the rate of floats, twice the products; Intel's processors from
// Sapphire Rapids on at a quarter of it, and have matrix registers instead.
bool multiplies_pairs_fast() {
  static const bool found = __builtin_cpu_supports("avx512bf16") && !__builtin_cpu_is("intel");
  return found;
}
// Both came with Ice Lake and with Zen 4.
bool has_vbmi() {
  static const bool found =
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  return found;
}
#endif
}  // namespace
}  // namespace qlora::cpu

// g++ 12 warns of the undefined lanes that its own header passes where none are kept.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#ifndef QLORA_EMULATION
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")
#endif

namespace qlora::cpu {
namespace avx512 {

#include "simd_avx512.inl"
#include "simd.inl"
#include "tiles_avx512.inl"
#include "code_blocks_avx512.inl"
#include "word_units.inl"
#include "word_encoder_avx512.inl"
#include "codebook_table_avx512.inl"

// What follows is called only where this is, so never inlined into what runs elsewhere.
inline bool multiplies_pairs() {
  return multiplies_pairs_fast();
}
#pragma GCC push_options
#ifndef QLORA_EMULATION
#pragma GCC target("avx512bf16")
#endif
#include "pairs_avx512.inl"
#pragma GCC pop_options

// Called only where has_vbmi.
#pragma GCC push_options
#ifndef QLORA_EMULATION
#pragma GCC target("avx512vbmi")
#endif
#include "state_planes_avx512.inl"
#pragma GCC pop_options
#include "state_vectors_avx512.inl"

#include "bodies.inl"

}  // namespace avx512

const Kernels avx512_kernels = avx512::table("avx512", has_avx512);

}  // namespace qlora::cpu

#pragma GCC pop_options

#endif
