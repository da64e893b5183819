// quantize_scales: double quantization of block scales, centred on an offset; a block of threads
// codes a nested block, a scale each.

constexpr int NESTED_THREADS = static_cast<int>(NESTED_BLOCK);

struct NestedShared {
  float map[NUM_CODES8];
  float largest[NESTED_THREADS / WARP];
};

__global__ void __launch_bounds__(NESTED_THREADS)
    quantize_scales_kernel(const __grid_constant__ QuantizeScales task) {
  NestedShared& shared = block_shared<NestedShared>();
  const int64_t i = int64_t{blockIdx.x} * NESTED_THREADS + threadIdx.x;
  const float centred = i < task.size ? task.absmax[i] - *task.offset : 0.0f;
  shared.map[threadIdx.x] = task.map[threadIdx.x];
  float nested = fabsf(centred);
  for (int bit = WARP / 2; bit > 0; bit /= 2) {
    nested = fmaxf(nested, __shfl_xor_sync(0xffffffffu, nested, bit));
  }
  if (lane_id() == 0) shared.largest[warp_id()] = nested;
  __syncthreads();
  for (const float other : shared.largest) nested = fmaxf(nested, other);
  if (threadIdx.x == 0) task.nested_absmax[blockIdx.x] = nested;
  const float scaled = nested > 0.0f ? centred / nested : 0.0f;
  if (i < task.size) task.codes[i] = nearest_code8(shared.map, scaled);
}
