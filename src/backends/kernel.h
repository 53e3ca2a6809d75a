// A kernel computes one operator on one device. Kernels stand in an ordered list, best first, the plain reference last.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/weight_store.h"
#include "ops/operator.h"

namespace rondo {

/// An input as it is known before the run.
struct KernelInput {
  /// Shape, strides and dtype; memory only where `weight` is set and the kernel does not pack, or for a constant.
  Tensor prototype;
  /// The weight's name in the store; empty for values that are computed.
  std::string weight;
};

class ExecutionDevice;
class DeviceStream;

struct KernelRequest {
  const Operator& op;
  std::span<const KernelInput> inputs;
  std::span<const Tensor> outputs;  // prototypes; dense but for the gaps that the operator names
  int threads;
  WeightStore& weights;
  /// Where it runs; null: on the CPU.
  const ExecutionDevice* device = nullptr;
  /// Of the weights that are there only at times; null: none.
  OffloadedWeights::Group* group = nullptr;

  /// Where its weights lie.
  WeightHome home() const { return {device, group}; }
};

class CollectiveRun;

struct KernelArgs {
  std::span<const Tensor> inputs;  // a weight that the kernel packed is undefined here
  std::span<Tensor> outputs;
  std::span<std::byte> scratch;  // 64-byte aligned, of scratch_bytes(), on the device that the kernel runs on
  int threads;
  /// How to reach other ranks; null for a run on its own.
  CollectiveRun* collectives = nullptr;
  /// Where the work runs and what it is given to; null on the CPU, where run() returns when it is done.
  const ExecutionDevice* device = nullptr;
  DeviceStream* stream = nullptr;
};

/// Immutable after construction: sessions on several threads share it.
class Kernel {
 public:
  virtual ~Kernel() = default;
  /// What runs, where one entry stands for several; else empty.
  virtual std::string_view implementation() const { return {}; }
  virtual std::size_t scratch_bytes() const { return 0; }
  virtual void run(const KernelArgs& args) const = 0;
};

/// Why a kernel cannot take a problem; empty when it can.
using Refusal = std::optional<std::string>;

struct KernelEntry {
  std::string_view op;
  std::string_view name;
  /// True when the kernel resolves its weights itself, through the store.
  bool packs_weights;
  Refusal (*supports)(const KernelRequest& request);
  std::unique_ptr<Kernel> (*make)(const KernelRequest& request);
};

/// The request's input `index` in `dtype` on its device, where it is a stored weight: made once, shared. Undefined
/// where the value is computed: then it is the run's.
Tensor stored_parameter(const KernelRequest& request, std::size_t index, DType dtype);

/// The entry that takes the request, and the reasons of those that stood before it.
struct KernelChoice {
  const KernelEntry* entry = nullptr;
  std::vector<std::string> refusals;  // "<kernel>: <reason>"
};

/// The first kernel of `entries` for the request's operator that supports it. RONDO_REFERENCE_KERNELS skips to the
/// reference on the CPU. Throws Unsupported, with all reasons, when none does.
KernelChoice select_kernel(std::span<const KernelEntry> entries, const KernelRequest& request);

}  // namespace rondo
