#include "backends/ascend/attention/attention_kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace rondo::ascend {

const SocCapabilities& AttentionSupport::capabilities() const {
  const char* const name = library_->aclrtGetSocName();
  return soc_capabilities(name == nullptr ? "" : name);
}

AttentionRefusal AttentionSupport::unavailable() const {
  std::uint32_t devices = 0;
  const AclStatus status = library_->aclrtGetDeviceCount(&devices);
  if (status != kAclSuccess) return fmt::format("aclrtGetDeviceCount failed with {}", status);
  if (devices == 0) return "no Ascend device is there";
  return std::nullopt;
}

std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels(const AttentionSupport& support) {
  return {fused_infer_attention_kernel(support), laser_attention_kernel(support),
          prompt_flash_attention_kernel(support), math_attention_kernel(support), fp8_attention_kernel(support)};
}

namespace {

/// Part of the call: one sequence, with a view of everything.
AttentionCall part_of(const AttentionCall& call, const AttentionSequence& s) {
  const auto part = [&](const Tensor& x, std::int64_t begin, std::int64_t count) {
    return x.sliced(0, s.batch, s.batch + 1).sliced(1, begin, begin + count);
  };
  AttentionCall one = call;
  one.query = part(call.query, s.query_begin, s.queries);
  one.key = part(call.key, s.key_begin, s.keys);
  one.value = part(call.value, s.key_begin, s.keys);
  one.output = part(call.output, s.query_begin, s.queries);
  if (call.lse.defined())
    one.lse = call.lse.sliced(0, s.batch, s.batch + 1).sliced(2, s.query_begin, s.query_begin + s.queries);
  return one;
}

}  // namespace

void AclAttentionRunner::run(const AttentionCall& call, std::span<std::byte> /*scratch*/) const {
  AclCaller acl(*call.device, *call.stream);
  const auto run_one = [&](const AttentionCall& one) {
    if (one.output.elements() == 0) return;
    if (one.key.elements() > 0) return function_(acl, one);
    acl.call(kFill, acl.tensor(one.output), acl.scalar(0));  // nobody sees anything
    if (one.lse.defined()) acl.call(kFill, acl.tensor(one.lse), acl.scalar(-std::numeric_limits<double>::infinity()));
  };
  const Shape& q = call.query.shape();
  const std::int64_t keys = call.key.shape()[1];
  const bool whole = static_cast<std::int64_t>(call.sequences.size()) == q[0] &&
                     std::all_of(call.sequences.begin(), call.sequences.end(), [&](const AttentionSequence& s) {
                       return s.query_begin == 0 && s.queries == q[1] && s.key_begin == 0 && s.keys == keys;
                     });
  if (whole) return run_one(call);
  for (const AttentionSequence& s : call.sequences) run_one(part_of(call, s));
}

/// Runs a fused operator into y: a dense tensor of the operands' dtype.
void into_fused(AclCaller& acl, const AttentionCall& call, const std::function<void(const Tensor& y)>& compute) {
  if (call.output.is_dense() && call.output.dtype() == call.query.dtype()) return compute(call.output);
  const Tensor whole = acl.temporary(call.output.shape(), call.query.dtype());
  compute(whole);
  acl.copy(whole, call.output);
}

AttentionRefusal refuse_fused(const AttentionProblem& p, const SocCapabilities& chip) {
  constexpr std::int64_t kWidest = 512;
  constexpr std::int64_t kMostHeads = 256;
  constexpr std::int64_t kWidestRow = 65535;
  if (p.dtype == DType::f32) return "takes bfloat16 and float16 only";
  if (p.dtype == DType::bf16 && !chip.bf16) return fmt::format("{} has no bfloat16", chip.name);
  if (p.value_dim != p.head_dim) return "takes values as wide as keys only";
  if (p.head_dim % 16 != 0 || p.head_dim > kWidest) return "takes head dims that are multiples of 16 up to 512 only";
  if (p.heads > kMostHeads || p.heads * p.head_dim >= kWidestRow)
    return "takes up to 256 heads that make less than 65535 elements a token only";
  if (p.mask == MaskKind::additive) return "does not take a mask that is added: it would be rounded to the dtype";
  if (p.mask != MaskKind::none && p.mask_heads) return "takes masks that all heads share only";
  if (p.mask != MaskKind::none && p.causal) return "takes a mask or causality, not both";
  if (p.varlen && p.lse) return "returns no LSE of packed sequences, of which some may be empty";
  if (p.varlen && p.causal) return "takes causal sequences of one length only";
  if (p.lse && (p.mask != MaskKind::none || (p.causal && p.queries > p.keys)))
    return "returns no LSE where rows may see nothing: CANN does not say what it is";
  return std::nullopt;
}

Tensor hidden_mask(AclCaller& acl, const Tensor& mask, std::int64_t batch, std::int64_t queries, std::int64_t keys) {
  const Tensor kept = acl.temporary({queries == 1 ? batch : mask.shape()[0], 1, queries, keys}, DType::boolean);
  acl.copy(mask, kept);
  Tensor hidden = acl.temporary(kept.shape(), DType::boolean);
  acl.call(kLogicalNot, acl.tensor(kept), acl.tensor(hidden));
  return hidden;
}

Tensor causal_mask(std::int64_t queries, std::int64_t keys, std::int64_t shift) {
  Tensor mask = Tensor::zeros({queries, keys}, DType::boolean);
  for (std::int64_t i = 0; i < queries; ++i) {
    for (std::int64_t j = std::max<std::int64_t>(i + shift + 1, 0); j < keys; ++j) mask.as<bool>()[i * keys + j] = true;
  }
  return mask;
}

namespace {

Tensor by_heads(const Tensor& x) { return x.transposed(1, 2); }

Tensor as_bsh(const Tensor& x) {
  const Shape& s = x.shape();
  return x.reshaped({s[0], s[1], s[2] * s[3]});
}

}  // namespace

Tensor FusedOperands::output(const Tensor& y) const { return std::string_view(layout) == "BSH" ? as_bsh(y) : y; }

FusedOperands fused_operands(AclCaller& acl, const AttentionCall& call, std::optional<AttentionLayout> layout) {
  const bool lies_by_heads = !call.query.is_dense() && by_heads(call.query).is_dense() &&
                             by_heads(call.key).is_dense() && by_heads(call.value).is_dense();
  if (!layout && lies_by_heads) layout = AttentionLayout::bnsd;
  // One query has no BNSD_BSND.
  if (layout == AttentionLayout::bnsd && call.query.shape()[1] > 1)
    return {acl.dense(by_heads(call.query)), acl.dense(by_heads(call.key)), acl.dense(by_heads(call.value)),
            "BNSD_BSND"};
  FusedOperands dense{acl.dense(call.query), acl.dense(call.key), acl.dense(call.value), "BSND"};
  if (layout != AttentionLayout::bsh) return dense;
  return {as_bsh(dense.query), as_bsh(dense.key), as_bsh(dense.value), "BSH"};
}

std::vector<AttentionTiling> fused_tilings() {
  std::vector<AttentionTiling> all{{}};
  for (const AttentionLayout layout : {AttentionLayout::bsnd, AttentionLayout::bnsd, AttentionLayout::bsh})
    all.push_back({0, 0, layout});
  return all;
}

}  // namespace rondo::ascend
