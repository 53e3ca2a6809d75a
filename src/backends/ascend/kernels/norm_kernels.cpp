// Norms, alone and with what comes before or after them, rotary embedding, modulation and gates.
#include <algorithm>
#include <array>
#include <optional>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/fused_norms.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo::ascend {
namespace {

/// Weights of norms stay float32 beside any dtype where the chip's norms take them so.
DType parameter_dtype(const KernelRequest& request) {
  return capabilities_of(request).bf16 ? DType::f32 : request.inputs[0].prototype.dtype();
}

bool overlaps(const Tensor& x, const Tensor& y) { return x.data() == y.data(); }

/// y's memory, or memory apart from x's where y lies over x or has gaps.
template <typename Compute>
void into_apart(AclCaller& acl, const Tensor& x, const Tensor& y, const Compute& compute) {
  if (y.is_dense() && !overlaps(x, y)) return compute(y);
  const Tensor whole = acl.temporary(y.shape(), y.dtype());
  compute(whole);
  acl.copy(whole, y);
}

/// The weight of a norm that has none.
Tensor ones(const KernelRequest& request, DType dtype) {
  const std::int64_t width = request.inputs[0].prototype.shape().back();
  Tensor one = Tensor::empty({width}, DType::f32);
  std::fill_n(one.as<float>(), width, 1.0F);
  return request.device->upload(one.to(dtype));
}

/// A norm's parameter: input `index` of the request, or of a run.
class NormParameter {
 public:
  NormParameter(const KernelRequest& request, std::size_t index, DType dtype)
      : index_(index), dtype_(dtype), known_(stored_parameter(request, index, dtype)) {}
  Tensor in(AclCaller& acl, std::span<const Tensor> inputs) const {
    return parameter_in(acl, known_, inputs[index_], dtype_);
  }

 private:
  std::size_t index_;
  DType dtype_;
  Tensor known_;
};

/// The RMSNorm's weight, ones where input `index` is not there.
class RmsWeight {
 public:
  RmsWeight(const KernelRequest& request, std::size_t index, DType dtype) {
    if (request.inputs.size() > index) {
      given_.emplace(request, index, dtype);
    } else {
      ones_ = ones(request, dtype);
    }
  }
  Tensor in(AclCaller& acl, std::span<const Tensor> inputs) const { return given_ ? given_->in(acl, inputs) : ones_; }

 private:
  std::optional<NormParameter> given_;
  Tensor ones_;
};

Tensor in_dtype(AclCaller& acl, const Tensor& tensor, DType dtype) { return parameter_in(acl, {}, tensor, dtype); }

/// Where the chip has no RmsNorm, in float32.
void put_together_rms_norm(AclCaller& acl, const Tensor& x, const Tensor& weight, double eps, const Tensor& y) {
  const Tensor wide = in_dtype(acl, x, DType::f32);
  Shape rows = x.shape();
  const std::size_t last = rows.rank() - 1;
  rows[last] = 1;
  const Tensor squares = acl.temporary(x.shape(), DType::f32);
  const Tensor factor = acl.temporary(rows, DType::f32);
  const std::array<std::int64_t, 1> axis{static_cast<std::int64_t>(last)};
  acl.multiply(wide, wide, squares);
  acl.call(kReduceSum, acl.tensor(squares), acl.ints(axis), true, AclDtype::float32, acl.tensor(factor));
  acl.multiply_scalar(factor, 1.0 / static_cast<double>(x.shape().back()), factor);
  acl.add_scalar(factor, eps, factor);
  acl.call(kRsqrt, acl.tensor(factor), acl.tensor(factor));
  acl.multiply(wide, factor, squares);
  acl.multiply(squares, in_dtype(acl, weight, DType::f32), squares);
  acl.copy(squares, y);
}

void rms_norm(AclCaller& acl, const Tensor& x, const Tensor& weight, double eps, const Tensor& y) {
  if (!acl.runtime().capabilities().rms_norm) return put_together_rms_norm(acl, x, weight, eps, y);
  Shape rows = x.shape();
  rows[rows.rank() - 1] = 1;
  const Tensor reciprocal = acl.temporary(rows, DType::f32);
  acl.call(kRmsNorm, acl.tensor(x), acl.tensor(weight), eps, acl.tensor(y), acl.tensor(reciprocal));
}

void layer_norm(AclCaller& acl, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                const Tensor& y) {
  const std::array width{x.shape().back()};
  acl.call(kLayerNorm, acl.tensor(x), acl.ints(width), acl.tensor(weight), acl.tensor(bias), eps, acl.tensor(y),
           nullptr, nullptr);
}

/// x * (1 + scale) + shift; y may be narrower than x.
void modulate(AclCaller& acl, const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& y) {
  if (y.dtype() != x.dtype()) {
    const Tensor wide = acl.temporary(x.shape(), x.dtype());
    modulate(acl, x, scale, shift, wide);
    return acl.copy(wide, y);
  }
  const Tensor factor = acl.temporary(with_token_axis(scale).shape(), x.dtype());
  acl.add_scalar(in_dtype(acl, with_token_axis(scale), x.dtype()), 1, factor);
  acl.multiply_add(in_dtype(acl, with_token_axis(shift), x.dtype()), x, factor, y);
}

/// The tables [S, D] or [S, D / 2] as [1, S, 1, D] in x's dtype: each value stands where its element is.
Tensor full_table(AclCaller& acl, const Tensor& table, std::int64_t head_dim, RotaryMode mode, DType dtype) {
  const std::int64_t tokens = table.shape()[0];
  Tensor full = acl.temporary({1, tokens, 1, head_dim}, dtype);
  if (table.shape()[1] == head_dim) {
    acl.copy(table, full.reshaped({tokens, head_dim}));
    return full;
  }
  const std::int64_t half = head_dim / 2;
  const Shape& s = table.strides();
  if (mode == RotaryMode::interleaved) {
    acl.copy(table.restrided({tokens, half, 1}, {s[0], s[1], 1}), full.reshaped({tokens, half, 2}));
  } else {
    acl.copy(table.restrided({tokens, 1, half}, {s[0], s[0], s[1]}), full.reshaped({tokens, 2, half}));
  }
  return full;
}

/// In float32: tables rounded to bfloat16 would cost half of its digits. y may be narrower.
void rotate(AclCaller& acl, const Tensor& x, const Tensor& cos, const Tensor& sin, RotaryMode mode, const Tensor& y) {
  if (y.dtype() != x.dtype()) {
    const Tensor wide = acl.temporary(x.shape(), x.dtype());
    rotate(acl, x, cos, sin, mode, wide);
    return acl.copy(wide, y);
  }
  const std::int64_t head_dim = x.shape().back();
  const Tensor c = full_table(acl, cos, head_dim, mode, x.dtype());
  const Tensor s = full_table(acl, sin, head_dim, mode, x.dtype());
  constexpr std::int64_t kHalf = 0;
  constexpr std::int64_t kInterleaved = 1;
  constexpr std::int64_t kMostRows = 1000;
  constexpr std::int64_t kWidest = 896;
  if (acl.runtime().capabilities().rotary && acl.has(kRotaryPositionEmbedding.name) &&
      x.shape()[0] * x.shape()[2] < kMostRows && head_dim < kWidest) {
    return into_apart(acl, x, y, [&](const Tensor& dense) {
      acl.call(kRotaryPositionEmbedding, acl.tensor(x), acl.tensor(c), acl.tensor(s),
               mode == RotaryMode::half ? kHalf : kInterleaved, acl.tensor(dense));
    });
  }
  // CANN 8.1 has no such operator, and it has limits: x * cos + turned(x) * sin, with turned(x) put together by copies.
  const Tensor turned = acl.temporary(x.shape(), x.dtype());
  const std::int64_t half = head_dim / 2;
  const auto element = [&](const Tensor& tensor, std::int64_t which) {
    if (mode == RotaryMode::half) return tensor.sliced(3, which * half, (which + 1) * half);
    Shape shape = tensor.shape();
    Shape strides = tensor.strides();
    shape[3] = half;
    strides[3] *= 2;
    return tensor.sliced(3, which, which + 1).restrided(shape, strides);
  };
  acl.multiply_scalar(element(x, 1), -1, element(turned, 0));
  acl.copy(element(x, 0), element(turned, 1));
  const Tensor sum = acl.temporary(x.shape(), x.dtype());
  acl.multiply(x, c, sum);
  acl.multiply_add(sum, turned, s, y);
}

Refusal supports_rotation(const KernelRequest& request) {
  return refuse_unless(request, 1, {kMultiply.name, kAddcmul.name, kMultiplyScalar.name, kCopy.name});
}

std::unique_ptr<Kernel> make_rms_norm(const KernelRequest& request) {
  return make_acl_kernel(
      [eps = static_cast<const RmsNormOp&>(request.op).eps(), weight = RmsWeight(request, 1, parameter_dtype(request))](
          AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        const Tensor w = weight.in(acl, inputs);
        into_apart(acl, inputs[0], outputs[0], [&](const Tensor& y) { rms_norm(acl, inputs[0], w, eps, y); });
      });
}

std::unique_ptr<Kernel> make_add_rms_norm(const KernelRequest& request) {
  return make_acl_kernel(
      [eps = static_cast<const AddRmsNormOp&>(request.op).eps(), weight = RmsWeight(request, 2, DType::f32)](
          AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        // The norm takes the sum before it is rounded.
        const Tensor sum = acl.temporary(inputs[0].shape(), DType::f32);
        acl.add(in_dtype(acl, inputs[0], DType::f32), in_dtype(acl, inputs[1], DType::f32), sum);
        const Tensor normed = acl.temporary(sum.shape(), DType::f32);
        rms_norm(acl, sum, weight.in(acl, inputs), eps, normed);
        acl.copy(normed, outputs[0]);
        acl.copy(sum, outputs[1]);
      });
}

std::unique_ptr<Kernel> make_rms_norm_rope(const KernelRequest& request) {
  const auto& op = static_cast<const RmsNormRopeOp&>(request.op);
  return make_acl_kernel([eps = op.eps(), mode = op.mode(), weight = RmsWeight(request, 3, DType::f32)](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor x = in_dtype(acl, inputs[0], DType::f32);
    const Tensor normed = acl.temporary(x.shape(), DType::f32);
    rms_norm(acl, x, weight.in(acl, inputs), eps, normed);
    rotate(acl, normed, inputs[1], inputs[2], mode, outputs[0]);
  });
}

std::unique_ptr<Kernel> make_rope(const KernelRequest& request) {
  return make_acl_kernel([mode = static_cast<const RopeOp&>(request.op).mode()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    rotate(acl, in_dtype(acl, inputs[0], DType::f32), inputs[1], inputs[2], mode, outputs[0]);
  });
}

/// Weight and bias of a LayerNorm from input `first` on, or neither.
struct AffineParameters {
  AffineParameters(const KernelRequest& request, std::size_t first, DType dtype) {
    if (request.inputs.size() <= first) return;
    weight.emplace(request, first, dtype);
    bias.emplace(request, first + 1, dtype);
  }
  void norm(AclCaller& acl, const Tensor& x, std::span<const Tensor> inputs, double eps, const Tensor& y) const {
    layer_norm(acl, x, weight ? weight->in(acl, inputs) : Tensor(), bias ? bias->in(acl, inputs) : Tensor(), eps, y);
  }
  std::optional<NormParameter> weight;
  std::optional<NormParameter> bias;
};

std::unique_ptr<Kernel> make_layer_norm(const KernelRequest& request) {
  return make_acl_kernel([eps = static_cast<const LayerNormOp&>(request.op).eps(),
                          affine = AffineParameters(request, 1, parameter_dtype(request))](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    into_apart(acl, inputs[0], outputs[0], [&](const Tensor& y) { affine.norm(acl, inputs[0], inputs, eps, y); });
  });
}

/// By AdaLayerNorm where this CANN has it and the shapes are its own, else LayerNorm and a modulation in float32.
std::unique_ptr<Kernel> make_adaptive_norm(const KernelRequest& request) {
  const bool fused = capabilities_of(request).bf16 && request.inputs.size() <= 3;
  return make_acl_kernel([eps = static_cast<const LayerNormScaleShiftOp&>(request.op).eps(), fused,
                          affine = AffineParameters(request, 3, DType::f32)](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor& x = inputs[0];
    const bool one_a_batch = with_token_axis(inputs[1]).shape()[1] == 1 && with_token_axis(inputs[2]).shape()[1] == 1;
    if (fused && one_a_batch && acl.has(kAdaLayerNorm.name)) {
      const Tensor scale = in_dtype(acl, acl.dense(with_token_axis(inputs[1])), x.dtype());
      const Tensor shift = in_dtype(acl, acl.dense(with_token_axis(inputs[2])), x.dtype());
      return into_apart(acl, x, outputs[0], [&](const Tensor& y) {
        acl.call(kAdaLayerNorm, acl.tensor(x), acl.tensor(scale), acl.tensor(shift), nullptr, nullptr, eps,
                 acl.tensor(y), nullptr, nullptr);
      });
    }
    const Tensor wide = in_dtype(acl, x, DType::f32);
    const Tensor normed = acl.temporary(x.shape(), DType::f32);
    affine.norm(acl, wide, inputs, eps, normed);
    modulate(acl, normed, inputs[1], inputs[2], outputs[0]);
  });
}

std::unique_ptr<Kernel> make_modulate(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    modulate(acl, inputs[0], inputs[1], inputs[2], outputs[0]);
  });
}

std::unique_ptr<Kernel> make_gated_add(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor gate = in_dtype(acl, with_token_axis(inputs[1]), inputs[0].dtype());
    acl.multiply_add(inputs[0], gate, inputs[2], outputs[0]);
  });
}

Refusal supports_rms_norm(const KernelRequest& request) {
  if (capabilities_of(request).rms_norm) return refuse_unless(request, 1, {kRmsNorm.name, kAdd.name, kCopy.name});
  return refuse_unless(request, 1, {kReduceSum.name, kRsqrt.name, kMultiply.name, kAdd.name, kCopy.name});
}
Refusal supports_layer_norm(const KernelRequest& request) {
  return refuse_unless(request, 1, {kLayerNorm.name, kAddScalar.name, kAddcmul.name, kCopy.name});
}
Refusal supports_rms_norm_rope(const KernelRequest& request) {
  const Refusal norm = supports_rms_norm(request);
  return norm ? norm : supports_rotation(request);
}
Refusal supports_gate(const KernelRequest& request) {
  return refuse_unless(request, 1, {kAddcmul.name, kAddScalar.name, kCopy.name});
}

constexpr std::array kEntries{
    KernelEntry{"rms_norm", "rms-norm", true, supports_rms_norm, make_rms_norm},
    KernelEntry{"add_rms_norm", "rms-norm", true, supports_rms_norm, make_add_rms_norm},
    KernelEntry{"rms_norm_rope", "rms-norm-rotary", true, supports_rms_norm_rope, make_rms_norm_rope},
    KernelEntry{"rope", "rotary", false, supports_rotation, make_rope},
    KernelEntry{"layer_norm", "layer-norm", true, supports_layer_norm, make_layer_norm},
    KernelEntry{"layernorm_scale_shift", "ada-layer-norm", true, supports_layer_norm, make_adaptive_norm},
    KernelEntry{"modulate", "addcmul", false, supports_gate, make_modulate},
    KernelEntry{"gated_add", "addcmul", false, supports_gate, make_gated_add},
};

}  // namespace

std::span<const KernelEntry> norm_kernels() { return kEntries; }

}  // namespace rondo::ascend
