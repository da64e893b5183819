// The matrix instructions that products here use, and exact conversions beside them.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "../common/element.h"
#ifndef __CUDACC__
#include "warp_matrix.h"
#endif

namespace qlora::cuda {

// A matrix [16, 32] of bytes as the warp's lanes hold it. Lane 4 g + t has columns 4t .. 4t + 3 of
// row g and of row g + 8, and the same behind column 16.
using ByteRows = std::array<uint32_t, 4>;

#ifdef __CUDACC__

// rows x + start, exact: x [32, 8] of bytes, of which lane 4 g + t has rows 4t .. 4t + 3 of column
// g, and the same behind row 16; of the sums it gets row g at columns 2t and 2t + 1, then row g
// + 8. Bytes of x are signed or not.
template <bool SIGNED>
__device__ __forceinline__ uint4 multiply_bytes(const ByteRows& rows, uint2 x, uint4 start) {
  uint4 sums;
  if constexpr (SIGNED) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(sums.x), "=r"(sums.y), "=r"(sums.z), "=r"(sums.w)
        : "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "r"(x.x), "r"(x.y), "r"(start.x),
          "r"(start.y), "r"(start.z), "r"(start.w));
  } else {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(sums.x), "=r"(sums.y), "=r"(sums.z), "=r"(sums.w)
        : "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "r"(x.x), "r"(x.y), "r"(start.x),
          "r"(start.y), "r"(start.z), "r"(start.w));
  }
  return sums;
}

// sums += W x: W [16, 16] and x [16, 8] as the warp's lanes hold them. Lane 4 g + t has of W, in
// pairs of neighbouring columns: rows g and g + 8 at columns 2t, then the same rows at 2t + 8; of
// x: column g at rows 2t and 2t + 8; of the sums: row g at columns 2t and 2t + 1, then row g + 8.
template <class Element>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const uint32_t (&w)[4], uint32_t x0,
                                             uint32_t x1) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x0), "r"(x1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x0), "r"(x1));
  }
}

// Two floats that 16 bits hold exactly, the first one in the low half.
template <class Element>
__device__ __forceinline__ uint32_t pack_exact(float first, float second) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    return __byte_perm(__float_as_uint(first), __float_as_uint(second), 0x7632);
  } else {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
  }
}

#else  // tests/cuda/emulation

using emulation::multiply_add;

template <bool SIGNED>
uint4 multiply_bytes(const ByteRows& rows, uint2 x, uint4 start,
                     const emulation::Site& site = emulation::Site::current()) {
  return emulation::multiply_bytes(SIGNED, rows, x, start, site);
}

template <class Element>
uint32_t pack_exact(float first, float second) {
  return uint32_t{from_float<Element>(second).bits} << 16 | from_float<Element>(first).bits;
}

#endif

}  // namespace qlora::cuda
