// Where kernels are tried out: on the CPU, or on a device that the layers above open.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "attention/attention_kernel.h"
#include "attention/random_attention.h"

namespace rondo {

/// Random operands where a problem's kernels run, and how to run them there.
class AttentionStage {
 public:
  virtual ~AttentionStage() = default;
  /// Runs once and waits until it is done.
  virtual void run(const AttentionRunner& runner) = 0;
};

struct AttentionStages {
  std::function<std::unique_ptr<AttentionStage>(const RandomAttention& operands, int threads)> make;
  /// What measured times hold for: "AMD EPYC | avx512_bf16", "Ascend910B2".
  std::function<std::string(const Device& device)> fingerprint;
};

/// Those of the CPU.
AttentionStages cpu_attention_stages();

}  // namespace rondo
