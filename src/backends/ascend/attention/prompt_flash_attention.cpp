// "ascend-pfa": PromptFlashAttention, which chips for inference have too.
#include <fmt/format.h>

#include "backends/ascend/attention/attention_kernels.h"

namespace rondo::ascend {
namespace {

class PromptFlashAttention final : public AttentionKernel {
 public:
  explicit PromptFlashAttention(const AttentionSupport& support) : support_(support) {}
  std::string_view name() const override { return "ascend-pfa"; }
  std::string_view description() const override {
    return "PromptFlashAttentionV3: bfloat16 and float16, boolean masks, GQA, no LSE; on 310P float16 without masks";
  }
  DeviceKind device() const override { return DeviceKind::ascend; }
  bool rounds_weights() const override { return true; }

  AttentionRefusal unavailable() const override {
    if (auto refusal = support_.unavailable()) return refusal;
    if (!support_.capabilities().prompt_flash_attention)
      return fmt::format("{} has no PromptFlashAttention", support_.capabilities().name);
    if (!support_.has(kPromptFlashAttention.name)) return "this version of CANN has no aclnnPromptFlashAttentionV3";
    return std::nullopt;
  }

  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (auto refusal = refuse_fused(p, support_.capabilities())) return refusal;
    if (p.lse) return "returns no LSE";
    if (p.causal) return "takes no causal attention";
    if (support_.capabilities().generation == SocGeneration::ascend310p) {
      constexpr std::int64_t kMostBatches = 128;
      if (p.mask != MaskKind::none) return "takes no mask on 310P";
      if (p.key_heads != p.heads) return "takes as many key heads as query heads only on 310P";
      if (p.batch > kMostBatches) return "takes batches up to 128 only on 310P";
    }
    return std::nullopt;
  }

  std::vector<AttentionTiling> tilings(const AttentionProblem& /*problem*/) const override { return fused_tilings(); }

  std::unique_ptr<AttentionRunner> make(const AttentionProblem& /*problem*/, const AttentionTiling& tiling,
                                        int /*threads*/) const override {
    return std::make_unique<AclAttentionRunner>(
        [layout = tiling.layout](AclCaller& acl, const AttentionCall& call) { run(acl, call, layout); });
  }

 private:
  static void run(AclCaller& acl, const AttentionCall& call, std::optional<AttentionLayout> wanted) {
    const FusedOperands o = fused_operands(acl, call, wanted);
    const Shape& q = call.query.shape();
    const Shape& k = call.key.shape();
    const Tensor mask = call.mask.defined() ? hidden_mask(acl, call.mask, q[0], q[1], k[1]) : Tensor();
    const std::int64_t precise = inner_precise(call);
    const std::int64_t key_heads = k[2] == q[2] ? 0 : k[2];  // 0: as many as of the query
    std::string layout = o.layout;
    into_fused(acl, call, [&](const Tensor& y) {
      acl.call(kPromptFlashAttention, acl.tensor(o.query), acl.tensor(o.key), acl.tensor(o.value), nullptr,
               acl.tensor(mask), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, q[2], call.scale,
               kNoWindow, kNoWindow, layout.data(), key_heads, kWholeMask, precise, acl.tensor(o.output(y)));
    });
  }

  AttentionSupport support_;
};

}  // namespace

std::shared_ptr<const AttentionKernel> prompt_flash_attention_kernel(const AttentionSupport& support) {
  return std::make_shared<PromptFlashAttention>(support);
}

}  // namespace rondo::ascend
