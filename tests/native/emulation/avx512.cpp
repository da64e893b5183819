// The bodies of csrc/cpu for AVX-512, compiled against the immintrin.h beside this file.
#include "../../../csrc/cpu/isa_avx512.cpp"

// The kernels, on a machine that multiplies pairs of bf16 values or on one that does not.
extern "C" [[gnu::visibility("default")]] const void* emulated_kernels(bool with_bf16) {
  qlora::cpu::emulates_bf16 = with_bf16;
  return &qlora::cpu::avx512_kernels;
}
