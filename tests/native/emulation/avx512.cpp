// The bodies of csrc/cpu for AVX-512, compiled against the immintrin.h beside this file.
#include "../../../csrc/cpu/isa_avx512.cpp"

extern "C" [[gnu::visibility("default")]] const void* emulated_kernels() {
  return &qlora::cpu::avx512_kernels;
}
