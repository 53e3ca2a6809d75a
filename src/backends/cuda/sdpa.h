// Scaled dot product attention, by the library that has it: cuDNN (in tests without a GPU, a plain loop).
#pragma once

#include <memory>
#include <string>

#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {

/// What is known of a call before its data.
struct SdpaProblem {
  Device device;
  /// Shapes, strides and dtypes: BSND views with a dense last axis; packed sequences as [sequences, longest, N, D].
  /// Operands in e4m3 may have an output in e4m3 or wider.
  Tensor query;
  Tensor key;
  Tensor value;
  Tensor output;
  float scale = 1;
  bool causal = false;  // the last query sees the last key
  bool lse = false;
  /// Whether sequences have lengths of their own and begin where SdpaSequences says.
  bool packed = false;

  /// All of it: what a library's plan is kept by.
  std::string key_text() const;
};

/// Of packed sequences, on the device: lengths, and where sequence i begins, in elements, with the end behind the last.
struct SdpaSequences {
  const std::int32_t* query_lengths = nullptr;
  const std::int32_t* key_lengths = nullptr;
  const std::int64_t* query_begins = nullptr;
  const std::int64_t* key_begins = nullptr;
  const std::int64_t* value_begins = nullptr;
  const std::int64_t* output_begins = nullptr;
};

/// Of operands in e4m3, on the device, each on 16 bytes: what one stands for is it times its scale; weights, up to 1,
/// are multiplied by `weight_factor` before they are rounded to e4m3, results by `output_factor` before they are to the
/// output's dtype.
struct SdpaScales {
  const float* query = nullptr;
  const float* key = nullptr;
  const float* value = nullptr;
  const float* weight = nullptr;  // 1 / weight_factor
  const float* weight_factor = nullptr;
  const float* output_factor = nullptr;
};

struct SdpaOperands {
  Tensor query;
  Tensor key;
  Tensor value;
  Tensor output;
  Tensor lse;  // float32 [B, N, Sq], dense; of packed sequences [sequences, N, longest]
  SdpaSequences sequences;
  SdpaScales scales;
};

/// Immutable: may run on several threads.
class Sdpa {
 public:
  virtual ~Sdpa() = default;
  virtual void run(const CudaRun& run, const SdpaOperands& operands) const = 0;
};

/// Why there is none in this process; empty where there is.
const std::string& sdpa_missing();

/// Throws Unsupported, with the library's words, for what it cannot do on that device.
std::unique_ptr<const Sdpa> make_sdpa(const SdpaProblem& problem);

}  // namespace rondo::cuda
