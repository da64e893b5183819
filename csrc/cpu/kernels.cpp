#include "kernels.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace qlora::cpu {
namespace {

const Kernels* const ALL[] = {
#if defined(__x86_64__)
    &avx512_kernels,
    &avx2_kernels,
#endif
    &serial_kernels,
};

const Kernels& find(const std::string& name, const char* who) {
  std::string runnable;
  for (const Kernels* candidate : ALL) {
    if (!candidate->runs_here()) continue;
    if (candidate->name == name) return *candidate;
    runnable += (runnable.empty() ? "" : ", ") + std::string(candidate->name);
  }
  throw std::invalid_argument(std::string(who) + ": should be one of " + runnable +
                              " (what this machine runs), was " + name);
}

const Kernels& choose() {
  const char* forced = std::getenv("QLORA_CPU_ISA");
  if (forced != nullptr && *forced != '\0') return find(forced, "QLORA_CPU_ISA");
  return find(available_isas().front(), "cpu");
}

std::atomic<const Kernels*> in_use{nullptr};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* candidate : ALL) {
    if (candidate->runs_here()) names.emplace_back(candidate->name);
  }
  return names;
}

const Kernels& kernels() {
  const Kernels* current = in_use.load(std::memory_order_acquire);
  if (current == nullptr) {
    current = &choose();
    in_use.store(current, std::memory_order_release);
  }
  return *current;
}

void use_isa(const std::string& name) {
  use_kernels(find(name, "use_isa"));
}

void use_kernels(const Kernels& kernels) {
  in_use.store(&kernels);
}

}  // namespace qlora::cpu
