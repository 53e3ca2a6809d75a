#include "backends/attention_backends.h"

#include "attention/reference_attention.h"
#include "backends/cpu/attention_kernels.h"

namespace rondo {

AttentionRegistry& attention_registry() {
  static AttentionRegistry registry;
  static const bool filled = [] {
    for (auto& kernel : cpu::attention_kernels()) registry.add(std::move(kernel));
    registry.add(reference_attention_kernel());
    return true;
  }();
  static_cast<void>(filled);
  return registry;
}

AttentionTuner& attention_tuner() {
  static AttentionTuner tuner(attention_registry());
  return tuner;
}

}  // namespace rondo
