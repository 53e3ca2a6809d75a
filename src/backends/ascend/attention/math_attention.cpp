// "ascend-math": both products and the softmax between them as operators of their own, in float32: for what the fused
// ones refuse.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "backends/ascend/attention/attention_kernels.h"

namespace rondo::ascend {
namespace {

/// What the scores of the queries and heads that are computed together may take.
constexpr std::int64_t kMostScoreBytes = std::int64_t{256} << 20;
/// Stands for the largest score of a row that sees nothing, so that it is a number. A mask's own lowest number is none
/// below it.
constexpr double kNothing = std::numeric_limits<float>::lowest();
constexpr double kTiniest = 1e-30;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Heads of one batch row: `key_heads` of keys and values from `first`, `group` of the query for each.
struct HeadRange {
  std::int64_t batch;
  std::int64_t first;
  std::int64_t key_heads;
  std::int64_t group;
  std::int64_t heads() const { return key_heads * group; }
};

class MathAttention final : public AttentionKernel {
 public:
  explicit MathAttention(const AttentionSupport& support) : support_(support) {}
  std::string_view name() const override { return "ascend-math"; }
  std::string_view description() const override {
    return "products and softmax one by one in float32: every dtype and mask, causal, GQA, LSE; slow, much memory";
  }
  DeviceKind device() const override { return DeviceKind::ascend; }

  AttentionRefusal unavailable() const override {
    if (auto refusal = support_.unavailable()) return refusal;
    for (const char* call : {kBatchMatmul.name, kAmax.name, kReduceSum.name, kExp.name, kMaskedFill.name}) {
      if (!support_.has(call)) return fmt::format("this version of CANN has no {}", call);
    }
    return std::nullopt;
  }

  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.dtype == DType::bf16 && !support_.capabilities().bf16)
      return fmt::format("{} has no bfloat16", support_.capabilities().name);
    if (p.key_heads == 0) return "takes at least one head";
    return std::nullopt;
  }

  std::unique_ptr<AttentionRunner> make(const AttentionProblem& p, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    // Sequences differ in how far their queries see: each takes some rows of a triangle that has them all.
    const std::int64_t before = p.varlen ? p.queries : 0;
    const auto triangle =
        p.causal ? std::make_shared<UploadedOnce>(causal_mask(before + (p.varlen ? p.keys : p.queries), p.keys,
                                                              p.varlen ? -before : p.keys - p.queries))
                 : nullptr;
    const std::int8_t math = support_.capabilities().f32_products ? 0 : 1;
    return std::make_unique<AclAttentionRunner>(
        [triangle, math, varlen = p.varlen, before](AclCaller& acl, const AttentionCall& call) {
          Tensor hidden = triangle ? triangle->on(*call.device) : Tensor();
          if (hidden.defined() && varlen) {
            const std::int64_t queries = call.query.shape()[1];
            const std::int64_t keys = call.key.shape()[1];
            hidden = hidden.sliced(0, before + keys - queries, before + keys).sliced(1, 0, keys);
          }
          run(acl, call, hidden, math);
        });
  }

 private:
  static void run(AclCaller& acl, const AttentionCall& call, const Tensor& triangle, std::int8_t math) {
    const Shape& q = call.query.shape();
    const Shape& k = call.key.shape();
    const std::int64_t group = q[2] / k[2];
    const std::int64_t row_bytes = group * k[1] * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t rows = std::clamp<std::int64_t>(kMostScoreBytes / row_bytes, 1, q[1]);
    const std::int64_t at_once = std::clamp<std::int64_t>(kMostScoreBytes / (row_bytes * rows), 1, k[2]);
    for (std::int64_t begin = 0; begin < q[1]; begin += rows) {
      const std::int64_t end = std::min(begin + rows, q[1]);
      const AttentionCall some = of_queries(call, begin, end);
      const Tensor hidden = triangle.defined() ? triangle.sliced(0, begin, end) : triangle;
      for (std::int64_t b = 0; b < q[0]; ++b) {
        for (std::int64_t first = 0; first < k[2]; first += at_once)
          run_heads(acl, some, {b, first, std::min(at_once, k[2] - first), group}, hidden, math);
      }
    }
  }

  static AttentionCall of_queries(const AttentionCall& call, std::int64_t begin, std::int64_t end) {
    AttentionCall some = call;
    some.query = call.query.sliced(1, begin, end);
    some.output = call.output.sliced(1, begin, end);
    if (call.lse.defined()) some.lse = call.lse.sliced(2, begin, end);
    if (call.mask.defined() && call.mask.shape()[2] != 1) some.mask = call.mask.sliced(2, begin, end);
    return some;
  }

  /// [B, S, N, D] -> the range's heads as float32 [heads, S, D]: those of keys and values repeat.
  static Tensor wide_heads(AclCaller& acl, const Tensor& x, const HeadRange& range, bool is_query) {
    const std::int64_t repeats = is_query ? 1 : range.group;
    const std::int64_t heads = is_query ? range.heads() : range.key_heads;
    const std::int64_t first = is_query ? range.first * range.group : range.first;
    const Tensor some = x.sliced(0, range.batch, range.batch + 1).sliced(2, first, first + heads);
    const Shape& s = some.shape();
    const Shape& strides = some.strides();
    const Tensor each = some.restrided({heads, 1, s[1], s[3]}, {strides[2], strides[2], strides[1], strides[3]});
    Tensor wide = acl.temporary({heads * repeats, s[1], s[3]}, DType::f32);
    acl.copy(each, wide.reshaped({heads, repeats, s[1], s[3]}));
    return wide;
  }

  static void apply_mask(AclCaller& acl, const Tensor& mask, const HeadRange& range, const Tensor& scores) {
    const std::int64_t batch = mask.shape()[0] == 1 ? 0 : range.batch;
    Tensor some = mask.sliced(0, batch, batch + 1);
    if (mask.shape()[1] != 1) {
      const std::int64_t first = range.first * range.group;
      some = some.sliced(1, first, first + range.heads());
    }
    const Shape& s = some.shape();
    const Tensor row = some.restrided({s[1], s[2], s[3]}, {some.strides()[1], some.strides()[2], some.strides()[3]});
    if (mask.dtype() == DType::boolean) {
      const Tensor hidden = acl.temporary(row.shape(), DType::boolean);
      acl.call(kLogicalNot, acl.tensor(row), acl.tensor(hidden));
      acl.call(kMaskedFill, acl.tensor(scores), acl.tensor(hidden), acl.scalar(-kInfinity));
    } else {
      Tensor wide = acl.temporary(row.shape(), DType::f32);
      acl.copy(row, wide);
      acl.add(scores, wide, scores);
    }
  }

  static void run_heads(AclCaller& acl, const AttentionCall& call, const HeadRange& range, const Tensor& triangle,
                        std::int8_t math) {
    const std::int64_t heads = range.heads();
    const std::int64_t queries = call.query.shape()[1];
    const std::int64_t keys = call.key.shape()[1];
    const std::array<std::int64_t, 1> last{2};
    const Tensor query = wide_heads(acl, call.query, range, true);
    const Tensor key = wide_heads(acl, call.key, range, false);
    const Tensor value = wide_heads(acl, call.value, range, false);
    const Tensor scores = acl.temporary({heads, queries, keys}, DType::f32);
    acl.call(kBatchMatmul, acl.tensor(query), acl.tensor(key.transposed(1, 2)), acl.tensor(scores), math);
    acl.multiply_scalar(scores, call.scale, scores);
    if (call.mask.defined()) apply_mask(acl, call.mask, range, scores);
    if (triangle.defined()) acl.call(kMaskedFill, acl.tensor(scores), acl.tensor(triangle), acl.scalar(-kInfinity));
    const Tensor most = acl.temporary({heads, queries, 1}, DType::f32);
    const Tensor sum = acl.temporary({heads, queries, 1}, DType::f32);
    acl.call(kAmax, acl.tensor(scores), acl.ints(last), true, acl.tensor(most));
    acl.call(kClampMin, acl.tensor(most), acl.scalar(kNothing), acl.tensor(most));
    acl.call(kSubtract, acl.tensor(scores), acl.tensor(most), acl.scalar(1), acl.tensor(scores));
    acl.call(kExp, acl.tensor(scores), acl.tensor(scores));
    acl.call(kReduceSum, acl.tensor(scores), acl.ints(last), true, AclDtype::float32, acl.tensor(sum));
    const Tensor mixed = acl.temporary({heads, queries, value.shape()[2]}, DType::f32);
    acl.call(kBatchMatmul, acl.tensor(scores), acl.tensor(value), acl.tensor(mixed), math);
    const std::int64_t first = range.first * range.group;
    if (call.lse.defined()) {
      const Tensor lse = acl.temporary({heads, queries, 1}, DType::f32);
      acl.call(kLog, acl.tensor(sum), acl.tensor(lse));
      acl.add(lse, most, lse);
      const Tensor rows = call.lse.sliced(0, range.batch, range.batch + 1).sliced(1, first, first + heads);
      const Shape& strides = rows.strides();
      acl.copy(lse.reshaped({heads, queries}), rows.restrided({heads, queries}, {strides[1], strides[2]}));
    }
    acl.call(kClampMin, acl.tensor(sum), acl.scalar(kTiniest), acl.tensor(sum));  // a row that sees nothing gives 0
    acl.call(kDivide, acl.tensor(mixed), acl.tensor(sum), acl.tensor(mixed));
    const Tensor some = call.output.sliced(0, range.batch, range.batch + 1).sliced(2, first, first + heads);
    const Shape& s = some.shape();
    const Shape& strides = some.strides();
    acl.copy(mixed, some.restrided({heads, s[1], s[3]}, {strides[2], strides[1], strides[3]}));
  }

  AttentionSupport support_;
};

}  // namespace

std::shared_ptr<const AttentionKernel> math_attention_kernel(const AttentionSupport& support) {
  return std::make_shared<MathAttention>(support);
}

}  // namespace rondo::ascend
