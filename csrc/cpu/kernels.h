// The CPU kernels: one table of functions per instruction set, chosen once at run time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "../common/state_codec.h"
#include "../common/views.h"
#include "state_file.h"

namespace qlora::cpu {

// The weight that is quantized, flat, and where its codes go; int8 where there is no codebook.
struct BlocksTask {
  const void* input;
  ElementType type;
  int64_t size;
  int64_t block_size;
  const Codebook* codebook;
  const float* importance;  // [columns]: what an error counts in a search; or null: all the same
  int64_t columns;          // of a row of the weight
  uint8_t* codes;
};

// codes and scales: absmax, or the best of its multiples by `ratios` where there are any.
struct QuantizeTask {
  BlocksTask blocks;
  std::span<const float> ratios;
  float* scales;
};

// Double quantization of block scales.
struct ScalesTask {
  const float* absmax;
  int64_t size;
  float offset;
  const StateCodec<true>* codec;
  uint8_t* codes;
  float* nested_absmax;
};

// Codes for scales that are double-quantized: of each 8-bit scale, given as the nearest to what was
// searched, and its two neighbours the best is taken.
struct NestedTask {
  BlocksTask blocks;
  uint8_t* scale_codes;  // read and written
  const float* nested_absmax;
  const float* map;
  float offset;
};

// One layer over x:  y = g (x W^T + s h b^T) + bias,  h = drop(x a^T) or drop(x) a^T
struct ForwardLayer {
  WeightView weight;
  AdapterView adapter;
  MatrixView bias;          // [1, n] or no data
  MatrixView output_scale;  // g [1, n] or no data: 1
  OutputView y;             // [m, n]
};

// Layers that read the same x; k is the same for all, n and the rank are not.
struct ForwardTask {
  MatrixView x;  // [m, k]
  std::vector<ForwardLayer> layers;
};

// Gradients of one of them; an output without data is not needed.
struct BackwardLayer {
  MatrixView dy;  // [m, n]
  WeightView weight;
  AdapterView adapter;
  const float* output_scale = nullptr;  // g [n] or null: 1
  MatrixView scaled;                    // [m, n]: what dscale multiplies dy with
  OutputView da, db, dbias, dscale;     // [rank, k], [n, rank], [1, n], [1, n]
};

// dx is the sum over the layers.
struct BackwardTask {
  MatrixView x;   // [m, k]; no data where no da and no db are needed
  OutputView dx;  // [m, k]
  std::vector<BackwardLayer> layers;
};

// norm[n] = |W_n + s b_n a|
struct NormTask {
  WeightView weight;
  AdapterView adapter;
  float* norm;
};

// The loss of a head, summed over the rows, and its gradient.
struct CrossEntropyTask {
  MatrixView hidden, head;  // [m, k], [v, k]
  const int64_t* labels;    // [m], each in [0, v)
  double label_smoothing;
  float* loss;
  OutputView dhidden;  // [m, k] or no data: not needed
};

// One AdamW update; the formula stands in ops/adamw/op.py, its factors here as torch rounds them.
struct AdamWRates {
  float decay;           // 1 - lr weight_decay
  float first;           // 1 - beta1
  float beta2, second;   // second = 1 - beta2
  float correction;      // sqrt(1 - beta2^t)
  float eps, step_size;  // step_size = -lr / (1 - beta1^t)
};

// Where an array of states begins, of those that are read from a file.
constexpr int64_t STATE_ALIGN = 16;

inline int64_t aligned_states(int64_t num_bytes) {
  return (num_bytes + STATE_ALIGN - 1) / STATE_ALIGN * STATE_ALIGN;
}

// Consecutive elements of a parameter. Their states are float32, or codes where there is an absmax
// per STATE_BLOCK of them. The parameter is the rounded copy of a master, if there is one. Where
// there is a shift, all states, the master among them, are in a file instead: what would be at an
// address is at that number plus the shift.
struct AdamWSegment {
  OutputView parameter;  // [1, size]
  MatrixView gradient;   // [1, size]
  float* master;
  void *exp_avg, *exp_avg_sq;
  float *exp_avg_absmax, *exp_avg_sq_absmax;
  AdamWRates rates;
  std::optional<int64_t> file_shift;

  int64_t size() const { return parameter.columns; }

  // Of the states of its first block, each array from an aligned place on; no other block has more.
  int64_t block_bytes() const {
    const int64_t count = std::min(STATE_BLOCK, size());
    const int64_t floats = aligned_states(count * static_cast<int64_t>(sizeof(float)));
    const bool has_codes = exp_avg_absmax != nullptr;
    const int64_t moment =
        has_codes ? aligned_states(count) + aligned_states(sizeof *exp_avg_absmax) : floats;
    return 2 * moment + (master == nullptr ? 0 : floats);
  }
};

// The file that some states are in, and the memory through which threads take them; it holds those
// of a block at least.
struct AdamWFile {
  StateFile* file = nullptr;
  std::span<uint8_t> room;
};

struct AdamWTask {
  std::vector<AdamWSegment> segments;
  const StateCodec<true>* first_codec;
  const StateCodec<false>* second_codec;
  float gradient_scale;
  AdamWFile states;
};

struct Kernels {
  const char* name;
  bool (*runs_here)();
  int64_t (*quantize)(const QuantizeTask&, int num_threads);  // -> first non-finite index or -1
  void (*quantize_scales)(const ScalesTask&, int num_threads);
  void (*quantize_nested)(const NestedTask&, int num_threads);
  void (*dequantize)(const WeightView&, const OutputView&, int num_threads);
  void (*dropout_mask)(const Dropout&, float* out, int64_t size, int num_threads);
  void (*forward)(const ForwardTask&, int num_threads);
  void (*backward)(const BackwardTask&, int num_threads);
  void (*dora_column_norm)(const NormTask&, int num_threads);
  void (*linear_cross_entropy)(const CrossEntropyTask&, int num_threads);
  void (*adamw_step)(const AdamWTask&, int num_threads);
  double (*squared_norm)(const std::vector<MatrixView>&, int num_threads);
};

extern const Kernels serial_kernels;
#if defined(__x86_64__)
extern const Kernels avx512_kernels, avx2_kernels;
#endif

// The instruction sets that this machine runs, the widest first.
std::vector<std::string> available_isas();

// The kernels in use: those of use_isa, else of QLORA_CPU_ISA, else the widest that runs here.
const Kernels& kernels();

// Forces an instruction set by name; throws std::invalid_argument if it is unknown or not runnable.
void use_isa(const std::string& name);

// Forces kernels from elsewhere: tests emulate an instruction set that the machine lacks.
void use_kernels(const Kernels& kernels);

}  // namespace qlora::cpu
