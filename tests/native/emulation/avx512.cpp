// The bodies of csrc/cpu for AVX-512, compiled against the immintrin.h beside this file.
#include "../../../csrc/cpu/isa_avx512.cpp"

// The kernels, on a machine that has the extensions (BF16, VBMI, VNNI) or on one that has none.
extern "C" [[gnu::visibility("default")]] const void* emulated_kernels(bool with_extensions) {
  qlora::cpu::emulates_extensions = with_extensions;
  return &qlora::cpu::avx512_kernels;
}
