// `driver TABLES ISA CASE`: runs one small case of a CPU kernel, once, inside `measured`, where
// callgrind counts. Inputs are the same each time. `driver TABLES` lists the cases.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cpu/kernels.h"

using namespace qlora;
using namespace qlora::cpu;

extern "C" __attribute__((noinline)) void measured(const std::function<void()>& call) {
  call();
  asm volatile("" ::: "memory");
}

namespace {

constexpr int64_t BLOCK = 64, N = 96, K = 512, RANK = 16, M = 48;

// What Python knows: the codebook of NF4, the dynamic maps with signs and without.
struct Tables {
  float nf4[16], with_signs[256], without_signs[256], ratios[81];

  static Tables of(const char* path) {
    Tables found;
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(&found), sizeof found);
    if (file.gcount() != sizeof found) std::exit(3);
    return found;
  }
};

// Even values in [-1, 1), the same on every machine.
std::vector<float> values(int64_t count, uint32_t seed) {
  std::vector<float> found(static_cast<size_t>(count));
  for (float& value : found) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f;
  }
  return found;
}

std::vector<BFloat16> halves(int64_t count, uint32_t seed) {
  std::vector<BFloat16> found;
  for (const float value : values(count, seed))
    found.push_back({static_cast<uint16_t>(bits_of(value) >> 16)});
  return found;
}

// Everything that a case may need, owned.
struct Inputs {
  Tables tables;
  Codebook codebook = Codebook::of(tables.nf4);
  std::vector<float> w = values(N * K, 1), scales = std::vector<float>(N * K / BLOCK);
  std::vector<uint8_t> codes = std::vector<uint8_t>(N * K / 2);
  std::vector<float> a = values(RANK * K, 2), b = values(N * RANK, 3);
  std::vector<BFloat16> x = halves(M * K, 4), dy = halves(M * N, 5);
  std::vector<BFloat16> y = halves(M * N, 6), dx = halves(M * K, 7), dense = halves(N * K, 8);
  std::vector<float> da = values(RANK * K, 9), db = values(N * RANK, 10), norm = values(N, 11);

  BlocksTask blocks() {
    return {w.data(), ElementType::float32, N * K, BLOCK, &codebook, nullptr, K, codes.data()};
  }
  WeightView weight() const {
    WeightView view;
    view.codes = codes.data();
    view.codebook = &codebook;
    view.scales.absmax = scales.data();
    view.n = N, view.k = K, view.block_shift = 6;
    return view;
  }
  AdapterView adapter() const {
    AdapterView view;
    view.a = {a.data(), ElementType::float32, RANK, K, K};
    view.b = {b.data(), ElementType::float32, N, RANK, RANK};
    view.rank = RANK, view.scaling = 2.0f;
    return view;
  }
};

using Case = std::function<std::function<void()>(const Kernels&, Inputs&)>;

Case forward(int64_t m) {
  return [m](const Kernels& kernels, Inputs& in) {
    ForwardTask task;
    task.x = {in.x.data(), ElementType::bfloat16, m, K, K};
    ForwardLayer& layer = task.layers.emplace_back();
    layer.weight = in.weight(), layer.adapter = in.adapter();
    layer.y = {in.y.data(), ElementType::bfloat16, m, N};
    return [task, &kernels] { kernels.forward(task, 1); };
  };
}

std::function<void()> backward(const Kernels& kernels, Inputs& in) {
  BackwardTask task;
  task.x = {in.x.data(), ElementType::bfloat16, M, K, K};
  task.dx = {in.dx.data(), ElementType::bfloat16, M, K};
  BackwardLayer& layer = task.layers.emplace_back();
  layer.dy = {in.dy.data(), ElementType::bfloat16, M, N, N};
  layer.weight = in.weight(), layer.adapter = in.adapter();
  layer.da = {in.da.data(), ElementType::float32, RANK, K};
  layer.db = {in.db.data(), ElementType::float32, N, RANK};
  return [task, &kernels] { kernels.backward(task, 1); };
}

Case quantize(bool searches) {
  return [searches](const Kernels& kernels, Inputs& in) {
    QuantizeTask task{in.blocks(), {}, in.scales.data()};
    if (searches) task.ratios = in.tables.ratios;
    if (searches) task.blocks.size = 8 * K;
    return [task, &kernels] { kernels.quantize(task, 1); };
  };
}

std::function<void()> dequantize(const Kernels& kernels, Inputs& in) {
  const OutputView out{in.dense.data(), ElementType::bfloat16, N, K};
  return [&in, out, &kernels] { kernels.dequantize(in.weight(), out, 1); };
}

std::function<void()> column_norm(const Kernels& kernels, Inputs& in) {
  const NormTask task{in.weight(), in.adapter(), in.norm.data()};
  return [task, &kernels] { kernels.dora_column_norm(task, 1); };
}

std::function<void()> cross_entropy(const Kernels& kernels, Inputs& in) {
  static float loss;
  static std::vector<int64_t> labels(M, 7);
  const CrossEntropyTask task{{in.x.data(), ElementType::bfloat16, M, K, K},
                              {in.dense.data(), ElementType::bfloat16, N, K, K},
                              labels.data(),
                              0.0,
                              &loss,
                              {in.dx.data(), ElementType::bfloat16, M, K}};
  return [task, &kernels] { kernels.linear_cross_entropy(task, 1); };
}

std::function<void()> mask(const Kernels& kernels, Inputs& in) {
  return [&in, &kernels] { kernels.dropout_mask(Dropout::of(7, 0.1), in.w.data(), N * K, 1); };
}

Case adamw(bool has_codes) {
  return [has_codes](const Kernels& kernels, Inputs& in) {
    static std::vector<float> first(N * K), second(N * K), absmax(2 * N * K / STATE_BLOCK);
    static std::vector<uint8_t> codes(2 * N * K);
    static const StateCodec<true> first_codec(in.tables.with_signs);
    static const StateCodec<false> second_codec(in.tables.without_signs);
    static const std::vector<float> gradient = values(N * K, 12);
    AdamWSegment segment{};
    segment.parameter = {in.w.data(), ElementType::float32, 1, N * K};
    segment.gradient = {gradient.data(), ElementType::float32, 1, N * K, N * K};
    segment.rates = {0.99f, 0.1f, 0.999f, 0.001f, 0.03f, 1e-8f, -0.01f};
    segment.exp_avg = first.data(), segment.exp_avg_sq = second.data();
    if (has_codes) {
      segment.exp_avg = codes.data(), segment.exp_avg_sq = codes.data() + N * K;
      segment.exp_avg_absmax = absmax.data();
      segment.exp_avg_sq_absmax = absmax.data() + N * K / STATE_BLOCK;
    }
    const AdamWTask task{{segment}, &first_codec, &second_codec, 1.0f};
    return [task, &kernels] { kernels.adamw_step(task, 1); };
  };
}

std::function<void()> squares(const Kernels& kernels, Inputs& in) {
  const std::vector<MatrixView> all{{in.w.data(), ElementType::float32, 1, N * K, N * K}};
  return [all, &kernels] { kernels.squared_norm(all, 1); };
}

const std::map<std::string, Case> CASES = {
    {"quantize", quantize(false)},     {"quantize searched", quantize(true)},
    {"dequantize", dequantize},        {"dropout_mask", mask},
    {"qlora_linear m=1", forward(1)},  {"qlora_linear m=8", forward(8)},
    {"qlora_linear m=48", forward(M)}, {"qlora_linear m=48 backward", backward},
    {"dora_column_norm", column_norm}, {"linear_cross_entropy", cross_entropy},
    {"adamw 32bit", adamw(false)},     {"adamw 8bit", adamw(true)},
    {"squared_norm", squares},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2)
    for (const auto& [name, made] : CASES) std::puts(name.c_str());
  if (argc != 4) return argc == 2 ? 0 : 2;
  Inputs in{Tables::of(argv[1])};
  use_isa(argv[2]);
  quantize(false)(kernels(), in)();  // codes and scales for those that read them
  measured(CASES.at(argv[3])(kernels(), in));
  return 0;
}
