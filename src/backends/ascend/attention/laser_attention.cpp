// "ascend-laser": LaserAttention of MindIE's custom operator library, for long sequences.
#include <fmt/format.h>

#include <limits>

#include "backends/ascend/attention/attention_kernels.h"

namespace rondo::ascend {
namespace {

/// It takes multiples of these.
constexpr std::int64_t kTokens = 256;
constexpr std::int64_t kHeadDim = 128;
/// Below this MindIE itself takes another operator.
constexpr std::int64_t kFewestTokens = 2048;
/// preTokens: no row of the keys is padding.
constexpr std::int64_t kNoPadding = std::numeric_limits<std::int32_t>::max();

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

/// [B, S, N, D] as float16 [B, N, S', D'], zeros behind.
Tensor padded(AclCaller& acl, const Tensor& x) {
  const Shape& s = x.shape();
  Tensor whole = acl.temporary({s[0], s[2], round_up(s[1], kTokens), kHeadDim}, DType::f16);
  acl.call(kFill, acl.tensor(whole), acl.scalar(0));
  acl.copy(x.transposed(1, 2), whole.sliced(2, 0, s[1]).sliced(3, 0, s[3]));
  return whole;
}

class LaserAttention final : public AttentionKernel {
 public:
  explicit LaserAttention(const AttentionSupport& support) : support_(support) {}
  std::string_view name() const override { return "ascend-laser"; }
  std::string_view description() const override {
    return "LaserAttention (MindIE's custom operators): computes in float16, 2048 tokens and more, no masks, no LSE";
  }
  DeviceKind device() const override { return DeviceKind::ascend; }
  bool rounds_weights() const override { return true; }

  AttentionRefusal unavailable() const override {
    if (auto refusal = support_.unavailable()) return refusal;
    if (!support_.capabilities().laser_attention)
      return fmt::format("{} has no LaserAttention", support_.capabilities().name);
    if (!support_.has(kLaserAttention.name))
      return "aclnnLaserAttention is not there: it comes with MindIE's custom operators (ASCEND_CUSTOM_OPP_PATH)";
    return std::nullopt;
  }

  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.dtype != DType::f16) return "computes in float16: takes float16 only";
    if (p.head_dim > kHeadDim || p.value_dim != p.head_dim) return "takes equal head dims up to 128 only";
    if (p.key_heads != p.heads) return "takes as many key heads as query heads only";
    if (p.mask != MaskKind::none || p.causal) return "takes no mask and no causality";
    if (p.lse) return "returns no LSE";
    if (p.varlen) return "takes sequences of one length only";
    if (p.queries < kFewestTokens || p.keys < kFewestTokens) return "takes 2048 queries and keys and more only";
    return std::nullopt;
  }

  std::unique_ptr<AttentionRunner> make(const AttentionProblem& /*problem*/, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    return std::make_unique<AclAttentionRunner>(run);
  }

 private:
  static void run(AclCaller& acl, const AttentionCall& call) {
    const Shape& s = call.query.shape();
    const Tensor query = padded(acl, call.query);
    const Tensor key = padded(acl, call.key);
    const Tensor value = padded(acl, call.value);
    const std::int64_t padding = key.shape()[2] - call.key.shape()[1];
    const Tensor sums = acl.temporary({s[0], s[2], query.shape()[2]}, DType::f32);
    const Tensor wide = acl.temporary(query.shape(), DType::f32);
    std::string layout = "BNSD";
    acl.call(kLaserAttention, acl.tensor(query), acl.tensor(key), acl.tensor(value), nullptr, nullptr, nullptr,
             call.scale, s[2], layout.data(), 1.0, padding == 0 ? kNoPadding : padding, 1, true, acl.tensor(sums),
             acl.tensor(wide));
    acl.copy(wide.sliced(2, 0, s[1]).sliced(3, 0, s[3]), call.output.transposed(1, 2));
  }

  AttentionSupport support_;
};

}  // namespace

std::shared_ptr<const AttentionKernel> laser_attention_kernel(const AttentionSupport& support) {
  return std::make_shared<LaserAttention>(support);
}

}  // namespace rondo::ascend
