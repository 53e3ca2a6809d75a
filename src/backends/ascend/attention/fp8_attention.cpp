// "ascend-fia-fp8": queries, keys and values as e4m3 with a scale a block, which FusedInferAttentionScore multiplies
// (quant mode 7). Blocks are those of attention/quantization_limits.h; the operator takes heads outermost.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "attention/quantization_limits.h"
#include "attention/quantized_attention.h"
#include "backends/ascend/attention/attention_kernels.h"

namespace rondo::ascend {
namespace {

constexpr std::int64_t kPerBlock = 7;  // of the quant modes

/// rotate_head() as a matrix of powers of two, which the narrow dtypes hold exactly: larger than the rotation by
/// `growth`. Rows are columns of the rotation, as products take weights.
struct Rotation {
  std::shared_ptr<UploadedOnce> matrix;
  double growth = 1;
};

Rotation make_rotation(std::int64_t head_dim, DType dtype) {
  const double exact = 1 / std::sqrt(static_cast<double>(head_dim));
  const double power = std::exp2(std::ceil(std::log2(exact)));
  Tensor matrix = Tensor::empty({head_dim, head_dim}, DType::f32);
  std::vector<float> row(static_cast<std::size_t>(head_dim));
  for (std::int64_t i = 0; i < head_dim; ++i) {
    std::fill(row.begin(), row.end(), 0.0F);
    row[static_cast<std::size_t>(i)] = 1;
    rotate_head(row);
    for (std::int64_t j = 0; j < head_dim; ++j) {
      matrix.as<float>()[j * head_dim + i] =
          static_cast<float>(std::copysign(power, static_cast<double>(row[static_cast<std::size_t>(j)])));
    }
  }
  return {std::make_shared<UploadedOnce>(matrix.to(dtype)), power / exact};
}

/// [B, S, N, D] -> [B, N, S, D], dense.
Tensor heads_outermost(AclCaller& acl, const Tensor& x) { return acl.dense(x.transposed(1, 2)); }

/// Each row of x, which is dense, turned.
Tensor rotated(AclCaller& acl, const Tensor& x, const Tensor& matrix) {
  const std::int64_t width = x.shape()[3];
  const Tensor rows = x.reshaped({x.elements() / width, width});
  Tensor turned = acl.temporary(rows.shape(), x.dtype());
  acl.linear(rows, matrix, Tensor(), turned);
  return turned.reshaped(x.shape());
}

/// x [B, N, S, D], dense, without the mean of each head's tokens.
Tensor without_mean(AclCaller& acl, const Tensor& x) {
  const Shape& s = x.shape();
  const Tensor columns = acl.temporary({s[0], s[1], s[3], s[2]}, DType::f32);
  acl.copy(x.transposed(2, 3), columns);
  const Tensor mean = acl.temporary({s[0], s[1], s[3], 1}, DType::f32);
  const std::array<std::int64_t, 1> last{3};
  acl.call(kReduceSum, acl.tensor(columns), acl.ints(last), true, AclDtype::float32, acl.tensor(mean));
  acl.multiply_scalar(mean, 1.0 / static_cast<double>(s[2]), mean);
  acl.call(kSubtract, acl.tensor(columns), acl.tensor(mean), acl.scalar(1), acl.tensor(columns));
  Tensor smooth = acl.temporary(s, x.dtype());
  acl.copy(columns.transposed(2, 3), smooth);
  return smooth;
}

struct QuantizedHeads {
  Tensor values;  // e4m3 [B, N, S, D]
  Tensor scales;  // float32 [B, N, blocks, 1]: what a value stands for is value * scale
};

QuantizedHeads quantized(AclCaller& acl, const Tensor& x, std::int64_t rows_of_block) {
  const Shape& s = x.shape();
  const std::int64_t blocks = (s[2] + rows_of_block - 1) / rows_of_block;
  QuantizedHeads result{acl.temporary(s, DType::f8_e4m3), acl.temporary({s[0], s[1], blocks, 1}, DType::f32)};
  const Shape samples{s[0] * s[1], s[2], s[3]};
  std::string to_nearest = "rint";
  acl.call(kDynamicBlockQuant, acl.tensor(x.reshaped(samples)), 0.0, to_nearest.data(),
           static_cast<std::int64_t>(AclDtype::float8_e4m3fn), rows_of_block, kE4m3Columns,
           acl.tensor(result.values.reshaped(samples)), acl.tensor(result.scales.reshaped({s[0] * s[1], blocks, 1})));
  return result;
}

class Fp8Attention final : public AttentionKernel {
 public:
  explicit Fp8Attention(const AttentionSupport& support) : support_(support) {}
  std::string_view name() const override { return "ascend-fia-fp8"; }
  std::string_view description() const override {
    return "FusedInferAttentionScore on e4m3 with a scale a block: bfloat16 and float16, GQA, rotation, smoothing";
  }
  DeviceKind device() const override { return DeviceKind::ascend; }
  bool rounds_weights() const override { return true; }
  bool takes(KvCacheDtype dtype) const override { return dtype == KvCacheDtype::fp8; }

  AttentionRefusal unavailable() const override {
    if (auto refusal = support_.unavailable()) return refusal;
    if (!support_.capabilities().fp8_attention)
      return fmt::format("{} multiplies no e4m3 in attention", support_.capabilities().name);
    for (const char* call : {kFusedInferAttentionV5.name, kDynamicBlockQuant.name}) {
      if (!support_.has(call)) return fmt::format("this version of CANN has no {}", call);
    }
    return std::nullopt;
  }

  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (auto refusal = refuse_fused(p, support_.capabilities())) return refusal;
    if (p.head_dim > kE4m3Columns) return "takes head dims up to 128 only";
    if (p.mask != MaskKind::none || p.causal) return "takes neither masks nor causality";
    if (p.lse) return "returns no LSE";
    if (p.quantization.rotates && !std::has_single_bit(static_cast<std::uint64_t>(p.head_dim)))
      return "turns heads whose width is a power of two only";
    return std::nullopt;
  }

  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    const Rotation rotation =
        problem.quantization.rotates ? make_rotation(problem.head_dim, problem.dtype) : Rotation();
    return std::make_unique<AclAttentionRunner>(
        [rotation, smooths = problem.quantization.smooths](AclCaller& acl, const AttentionCall& call) {
          run(acl, call, rotation, smooths);
        });
  }

 private:
  static void run(AclCaller& acl, const AttentionCall& call, const Rotation& rotation, bool smooths) {
    Tensor query = heads_outermost(acl, call.query);
    Tensor key = heads_outermost(acl, call.key);
    if (smooths) key = without_mean(acl, key);
    if (rotation.matrix != nullptr) {
      const Tensor& matrix = rotation.matrix->on(*call.device);
      query = rotated(acl, query, matrix);
      key = rotated(acl, key, matrix);
    }
    const QuantizedHeads q = quantized(acl, query, kE4m3Queries);
    const QuantizedHeads k = quantized(acl, key, kE4m3Keys);
    const QuantizedHeads v = quantized(acl, heads_outermost(acl, call.value), kE4m3Keys);
    const Tensor output = acl.temporary(query.shape(), call.query.dtype());
    FusedInferV5 fused;
    fused.query = acl.tensor(q.values);
    fused.key = acl.list({&k.values, 1});
    fused.value = acl.list({&v.values, 1});
    fused.query_scale = acl.tensor(q.scales);
    fused.key_scale = acl.tensor(k.scales);
    fused.value_scale = acl.tensor(v.scales);
    fused.quant_mode = kPerBlock;
    fused.heads = query.shape()[1];
    fused.key_heads = key.shape()[1];
    fused.scale = call.scale / (rotation.growth * rotation.growth);
    fused.layout = "BNSD";
    fused.output = acl.tensor(output);
    fused.run(acl);
    acl.copy(output.transposed(1, 2), call.output);
  }

  AttentionSupport support_;
};

}  // namespace

std::shared_ptr<const AttentionKernel> fp8_attention_kernel(const AttentionSupport& support) {
  return std::make_shared<Fp8Attention>(support);
}

}  // namespace rondo::ascend
