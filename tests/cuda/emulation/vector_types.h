// CUDA's vector types, with its alignments: what a kernel loads and stores at once.
#pragma once

#include <cstdint>

#define EMULATED_VECTOR2(name, element, alignment) \
  struct alignas(alignment) name {                 \
    element x, y;                                  \
  };                                               \
  inline name make_##name(element x, element y) {  \
    return {x, y};                                 \
  }
#define EMULATED_VECTOR4(name, element, alignment)                      \
  struct alignas(alignment) name {                                      \
    element x, y, z, w;                                                 \
  };                                                                    \
  inline name make_##name(element x, element y, element z, element w) { \
    return {x, y, z, w};                                                \
  }

EMULATED_VECTOR2(char2, signed char, 2)
EMULATED_VECTOR2(uchar2, unsigned char, 2)
EMULATED_VECTOR2(short2, short, 4)
EMULATED_VECTOR2(ushort2, unsigned short, 4)
EMULATED_VECTOR2(int2, int, 8)
EMULATED_VECTOR2(uint2, unsigned, 8)
EMULATED_VECTOR2(float2, float, 8)
EMULATED_VECTOR2(double2, double, 16)
EMULATED_VECTOR4(char4, signed char, 4)
EMULATED_VECTOR4(uchar4, unsigned char, 4)
EMULATED_VECTOR4(short4, short, 8)
EMULATED_VECTOR4(ushort4, unsigned short, 8)
EMULATED_VECTOR4(int4, int, 16)
EMULATED_VECTOR4(uint4, unsigned, 16)
EMULATED_VECTOR4(float4, float, 16)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
