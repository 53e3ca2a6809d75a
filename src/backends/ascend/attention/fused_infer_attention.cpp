// "ascend-fia": FusedInferAttentionScore, in the version that the chip takes.
#include <fmt/format.h>

#include <map>
#include <mutex>

#include "backends/ascend/attention/attention_kernels.h"

namespace rondo::ascend {
namespace {

/// The side of the compressed causal mask.
constexpr std::int64_t kCausalMaskSide = 2048;

class FusedInferAttention final : public AttentionKernel {
 public:
  explicit FusedInferAttention(const AttentionSupport& support) : support_(support) {}
  std::string_view name() const override { return "ascend-fia"; }
  std::string_view description() const override {
    return "FusedInferAttentionScore: bfloat16 and float16, boolean masks, causal, GQA, LSE; a ring's default";
  }
  DeviceKind device() const override { return DeviceKind::ascend; }
  bool rounds_weights() const override { return true; }

  AttentionRefusal unavailable() const override {
    if (auto refusal = support_.unavailable()) return refusal;
    if (version() == 0) return fmt::format("{} has no FusedInferAttentionScore", support_.capabilities().name);
    if (!support_.has(operator_name())) return fmt::format("this version of CANN has no {}", operator_name());
    return std::nullopt;
  }
  AttentionRefusal supports(const AttentionProblem& problem) const override {
    return refuse_fused(problem, support_.capabilities());
  }

  std::vector<AttentionTiling> tilings(const AttentionProblem& /*problem*/) const override { return fused_tilings(); }

  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& tiling,
                                        int /*threads*/) const override {
    const auto triangle = problem.causal ? shared_triangle(problem.device) : nullptr;
    return std::make_unique<AclAttentionRunner>(
        [version = version(), triangle, layout = tiling.layout](AclCaller& acl, const AttentionCall& call) {
          run(acl, call, version, triangle ? triangle->on(*call.device) : Tensor(), layout);
        });
  }

 private:
  /// Causality is a compressed mask of a fixed size, 4 MB, which all runners on a device share.
  std::shared_ptr<UploadedOnce> shared_triangle(const Device& device) const {
    const std::lock_guard lock(triangles_mutex_);
    std::weak_ptr<UploadedOnce>& known = triangles_[device];
    std::shared_ptr<UploadedOnce> triangle = known.lock();
    if (triangle == nullptr)
      known = triangle = std::make_shared<UploadedOnce>(causal_mask(kCausalMaskSide, kCausalMaskSide, 0));
    return triangle;
  }
  /// 3 came with CANN 8.1; before it there was 2.
  int version() const {
    const int wanted = support_.capabilities().fused_infer_attention;
    return wanted == 3 && !support_.has(kFusedInferAttentionV3.name) ? 2 : wanted;
  }
  const char* operator_name() const {
    if (version() == 5) return kFusedInferAttentionV5.name;
    return version() == 3 ? kFusedInferAttentionV3.name : kFusedInferAttentionV2.name;
  }

  static void run(AclCaller& acl, const AttentionCall& call, int version, const Tensor& triangle,
                  std::optional<AttentionLayout> wanted) {
    const FusedOperands o = fused_operands(acl, call, wanted);
    const Shape& q = call.query.shape();
    const Shape& k = call.key.shape();
    const Tensor mask = call.mask.defined() ? hidden_mask(acl, call.mask, q[0], q[1], k[1]) : triangle;
    const std::int64_t sparse = triangle.defined() ? kCausalBottomRight : kWholeMask;
    const std::int64_t precise = inner_precise(call);
    const bool wants_lse = call.lse.defined();
    const Tensor lse = wants_lse ? acl.temporary({q[0], q[2], q[1], 1}, DType::f32) : Tensor();
    std::string layout = o.layout;
    into_fused(acl, call, [&](const Tensor& y) {
      aclTensor* const query = acl.tensor(o.query);
      aclTensorList* const key = acl.list({&o.key, 1});
      aclTensorList* const value = acl.list({&o.value, 1});
      aclTensor* const hidden = acl.tensor(mask);
      aclTensor* const output = acl.tensor(o.output(y));
      aclTensor* const sums = acl.tensor(lse);
      const double scale = call.scale;
      if (version == 5) {
        FusedInferV5 call_v5{query, key, value, hidden, q[2], k[2], scale, layout, sparse, precise};
        call_v5.output = output;
        call_v5.lse = sums;
        call_v5.run(acl);
      } else if (version == 3) {
        acl.call(kFusedInferAttentionV3, query, key, value, nullptr, hidden, nullptr, nullptr, nullptr, nullptr,
                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, q[2], scale, kNoWindow, kNoWindow,
                 layout.data(), k[2], sparse, precise, 0, 0, wants_lse, 0, 0, output, sums);
      } else {
        acl.call(kFusedInferAttentionV2, query, key, value, nullptr, hidden, nullptr, nullptr, nullptr, nullptr,
                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                 nullptr, nullptr, nullptr, nullptr, q[2], scale, kNoWindow, kNoWindow, layout.data(), k[2], sparse,
                 precise, 0, 0, wants_lse, 0, 0, output, sums);
      }
    });
    if (wants_lse) acl.copy(lse.reshaped({q[0], q[2], q[1]}), call.lse);
  }

  mutable std::mutex triangles_mutex_;
  mutable std::map<Device, std::weak_ptr<UploadedOnce>> triangles_;
  AttentionSupport support_;
};

}  // namespace

void FusedInferV5::run(AclCaller& acl) {
  acl.call(kFusedInferAttentionV5, query, key, value, nullptr, mask, nullptr, nullptr, nullptr, nullptr, nullptr,
           nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, key_scale, nullptr, value_scale, nullptr,
           nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, query_scale, nullptr, nullptr, nullptr, heads, scale,
           kNoWindow, kNoWindow, layout.data(), key_heads, sparse_mode, inner_precise, 0, 0, lse != nullptr, quant_mode,
           quant_mode, quant_mode, 0, output, lse);
}

std::shared_ptr<const AttentionKernel> fused_infer_attention_kernel(const AttentionSupport& support) {
  return std::make_shared<FusedInferAttention>(support);
}

}  // namespace rondo::ascend
