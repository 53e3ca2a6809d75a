// Partial attentions of a ring, put together.
#include <array>
#include <limits>

#include "backends/ascend/kernels/acl_kernel.h"

namespace rondo::ascend {
namespace {

Refusal supports(const KernelRequest& request) {
  return refuse_unless(request, 1,
                       {kMaximum.name, kClampMin.name, kSubtract.name, kExp.name, kAdd.name, kLog.name, kDivide.name,
                        kMultiply.name, kAddcmul.name});
}

/// LSE-like [B, N, S], dense, beside [B, S, N, D].
Tensor beside_rows(const Tensor& x) {
  const Shape& s = x.shape();
  return x.restrided({s[0], s[2], s[1], 1}, {s[1] * s[2], 1, s[2], 1});
}

/// Outputs that saw nothing are 0, as every attention kernel gives them.
void merge(AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
  const Tensor& a_lse = inputs[1];
  const Tensor& b_lse = inputs[3];
  const auto like_lse = [&] { return acl.temporary(a_lse.shape(), DType::f32); };
  const Tensor most = like_lse();
  acl.call(kMaximum, acl.tensor(a_lse), acl.tensor(b_lse), acl.tensor(most));
  // Nothing on both sides: a number to subtract, so that both weights are exp(-infinity).
  acl.call(kClampMin, acl.tensor(most), acl.scalar(std::numeric_limits<float>::lowest()), acl.tensor(most));
  const auto weight = [&](const Tensor& lse) {
    Tensor result = like_lse();
    acl.call(kSubtract, acl.tensor(lse), acl.tensor(most), acl.scalar(1), acl.tensor(result));
    acl.call(kExp, acl.tensor(result), acl.tensor(result));
    return result;
  };
  const Tensor a_weight = weight(a_lse);
  const Tensor b_weight = weight(b_lse);
  const Tensor sum = like_lse();
  acl.add(a_weight, b_weight, sum);
  acl.into(outputs[1], [&](const Tensor& lse) {
    acl.call(kLog, acl.tensor(sum), acl.tensor(lse));
    acl.add(lse, most, lse);
  });
  acl.call(kClampMin, acl.tensor(sum), acl.scalar(std::numeric_limits<float>::min()), acl.tensor(sum));
  acl.call(kDivide, acl.tensor(a_weight), acl.tensor(sum), acl.tensor(a_weight));
  acl.call(kDivide, acl.tensor(b_weight), acl.tensor(sum), acl.tensor(b_weight));
  const Tensor part = acl.temporary(inputs[0].shape(), DType::f32);
  acl.multiply(inputs[0], beside_rows(a_weight), part);
  acl.multiply_add(part, inputs[2], beside_rows(b_weight), part);
  acl.copy(part, outputs[0]);
}

std::unique_ptr<Kernel> make_merge(const KernelRequest& /*request*/) { return make_acl_kernel(merge); }

constexpr std::array kEntries{KernelEntry{"merge_attention", "elements", false, supports, make_merge}};

}  // namespace

std::span<const KernelEntry> merge_kernels() { return kEntries; }

}  // namespace rondo::ascend
