#include "backends/attention_backends.h"

#include <fmt/format.h>

#include "attention/reference_attention.h"
#include "backends/cpu/attention_kernels.h"
#include "backends/device_work.h"
#include "backends/devices.h"
#include "backends/plugins/plugin_loader.h"
#include "rondo/error.h"

namespace rondo {
namespace {

class DeviceStage final : public AttentionStage {
 public:
  DeviceStage(const RandomAttention& operands, int threads)
      : operands_(on_device(operands)), call_(operands_.call(threads)), work_(open_device(operands.problem.device)) {
    call_.device = &work_.device();
    call_.stream = &work_.stream();
    call_.output = work_.device().upload(call_.output);
    if (call_.lse.defined()) call_.lse = work_.device().upload(call_.lse);
  }
  void run(const AttentionRunner& runner) override {
    const auto bytes = static_cast<std::int64_t>(runner.scratch_bytes());
    if (!scratch_.defined() || scratch_.elements() < bytes) scratch_ = work_.device().empty({bytes}, DType::u8);
    runner.run(call_, {scratch_.as<std::byte>(), scratch_.bytes()});
    work_.finish();
  }

 private:
  RandomAttention operands_;
  AttentionCall call_;
  Tensor scratch_;
  DeviceWork work_;  // last: it ends before the memory that it uses goes
};

/// Those of the CPU, and of every device.
AttentionStages attention_stages() {
  AttentionStages cpu = cpu_attention_stages();
  return {[make = cpu.make](const RandomAttention& operands, int threads) -> std::unique_ptr<AttentionStage> {
            if (operands.problem.device.is_cpu()) return make(operands, threads);
            return std::make_unique<DeviceStage>(operands, threads);
          },
          [fingerprint = cpu.fingerprint](const Device& device) {
            return device.is_cpu() ? fingerprint(device) : open_device(device)->runtime().info().name;
          }};
}

/// Why no kernel takes a quantised problem, or why the named one does not; nothing where one does.
std::optional<std::string> refuse_quantized(const AttentionProblem& problem, const AttentionRequest& request) {
  std::vector<std::string> reasons;
  const std::string named = request.named_backend().name;
  for (const auto& kernel : attention_registry().kernels()) {
    const bool considered = named.empty() ? kernel->name() != "reference" && kernel->takes(problem.quantization.dtype)
                                          : kernel->name() == named;
    if (!considered) continue;
    const AttentionRefusal refusal = attention_registry().answer(*kernel, problem);
    if (!refusal) return std::nullopt;
    reasons.push_back(fmt::format("{} {}", kernel->name(), *refusal));
  }
  return fmt::format("{}", fmt::join(reasons, "; "));
}

}  // namespace

RandomAttention on_device(RandomAttention operands) {
  const auto device = open_device(operands.problem.device);
  if (device == nullptr) return operands;
  for (Tensor* operand : {&operands.query, &operands.key, &operands.value, &operands.mask})
    if (operand->defined()) *operand = device->upload_strided(*operand);
  return operands;
}

AttentionRegistry& attention_registry() {
  static AttentionRegistry registry;
  static const bool filled = [] {
    for (auto& kernel : cpu::attention_kernels()) registry.add(std::move(kernel));
    registry.add(reference_attention_kernel());
    registry.set_loader([] { loaded_plugins(); });
    return true;
  }();
  static_cast<void>(filled);
  return registry;
}

KvCachePolicy settle_kv_cache(KvCachePolicy policy, AttentionProblem layer, std::int64_t layers,
                              const AttentionRequest& request) {
  if (!policy.active()) return policy;
  policy.check_layers(layers);
  layer.quantization = policy.quantization;
  if (policy.may_leave_smoothing) settle_smoothing(layer, request);
  policy.quantization = layer.quantization;
  const auto refusal = refuse_quantized(layer, request);
  if (!refusal) return policy;
  const std::string reason = fmt::format("{}: {}", kv_cache_dtype_name(policy.quantization.dtype), *refusal);
  if (!policy.falls_back) {
    throw Unsupported(fmt::format("kv-cache-dtype: {}; allowed here is auto, or --kv-cache-fallback native", reason));
  }
  policy.quantization = {};
  policy.fallback_reason = reason;
  return policy;
}

void settle_smoothing(AttentionProblem& problem, const AttentionRequest& request) {
  if (!problem.quantization.smooths || problem.device.is_cpu()) return;  // the CPU's kernels all smooth
  AttentionProblem plain = problem;
  plain.quantization.smooths = false;
  if (refuse_quantized(problem, request) && !refuse_quantized(plain, request)) problem = plain;
}

AttentionTuner& attention_tuner() {
  static AttentionTuner tuner(attention_registry(), attention_stages());
  return tuner;
}

}  // namespace rondo
