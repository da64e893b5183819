// What both the host and kernels on the GPU call is marked HOST_DEVICE; only nvcc reads the mark.
// (std::min and its like are constexpr, which nvcc takes for both: --expt-relaxed-constexpr.)
#pragma once

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif
