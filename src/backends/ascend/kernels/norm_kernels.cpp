// Norms, alone and with what comes before or after them, rotary embedding, modulation and gates.
#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/fused_norms.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo::ascend {
namespace {

/// Weights of norms: float32 beside any dtype, which RmsNorm and LayerNorm take so.
constexpr DType kNormParameter = DType::f32;

bool overlaps(const Tensor& x, const Tensor& y) { return x.data() == y.data(); }

/// y's memory, or memory apart from x's where y lies over x or has gaps.
template <typename Compute>
void into_apart(AclCaller& acl, const Tensor& x, const Tensor& y, const Compute& compute) {
  if (y.is_dense() && !overlaps(x, y)) return compute(y);
  const Tensor whole = acl.temporary(y.shape(), y.dtype());
  compute(whole);
  acl.copy(whole, y);
}

Tensor ones(const KernelRequest& request, std::int64_t width) {
  Tensor one = Tensor::empty({width}, kNormParameter);
  std::fill_n(one.as<float>(), width, 1.0F);
  return request.device->upload(one);
}

void rms_norm(AclCaller& acl, const Tensor& x, const Tensor& weight, double eps, const Tensor& y) {
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

/// x * (1 + scale) + shift
void modulate(AclCaller& acl, const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& y) {
  const Tensor wide_scale = with_token_axis(scale);
  const Tensor factor = acl.temporary(wide_scale.shape(), x.dtype());
  acl.add_scalar(wide_scale, 1, factor);
  acl.multiply_add(with_token_axis(shift), x, factor, y);
}

/// The tables [S, D] or [S, D / 2] as [1, S, 1, D] in x's dtype: each value stands where its element is.
Tensor full_table(AclCaller& acl, const Tensor& table, std::int64_t head_dim, RotaryMode mode, DType dtype) {
  const std::int64_t tokens = table.shape()[0];
  const Tensor full = acl.temporary({1, tokens, 1, head_dim}, dtype);
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

void rotate(AclCaller& acl, const Tensor& x, const Tensor& cos, const Tensor& sin, RotaryMode mode, const Tensor& y) {
  const std::int64_t head_dim = x.shape().back();
  const Tensor c = full_table(acl, cos, head_dim, mode, x.dtype());
  const Tensor s = full_table(acl, sin, head_dim, mode, x.dtype());
  constexpr std::int64_t kHalf = 0;
  constexpr std::int64_t kInterleaved = 1;
  constexpr std::int64_t kMostRows = 1000;
  constexpr std::int64_t kWidest = 896;
  if (acl.has(kRotaryPositionEmbedding.name) && x.shape()[0] * x.shape()[2] < kMostRows && head_dim < kWidest) {
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
  const double eps = static_cast<const RmsNormOp&>(request.op).eps();
  const bool has_weight = request.inputs.size() > 1;
  const Tensor weight =
      has_weight ? parameter(request, 1, kNormParameter) : ones(request, request.inputs[0].prototype.shape().back());
  return make_acl_kernel([=](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor w = has_weight ? parameter_in(acl, weight, inputs[1], kNormParameter) : weight;
    into_apart(acl, inputs[0], outputs[0], [&](const Tensor& y) { rms_norm(acl, inputs[0], w, eps, y); });
  });
}

std::unique_ptr<Kernel> make_add_rms_norm(const KernelRequest& request) {
  const double eps = static_cast<const AddRmsNormOp&>(request.op).eps();
  const bool has_weight = request.inputs.size() > 2;
  const Tensor weight =
      has_weight ? parameter(request, 2, kNormParameter) : ones(request, request.inputs[0].prototype.shape().back());
  return make_acl_kernel([=](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    acl.add(inputs[0], inputs[1], outputs[1]);
    const Tensor w = has_weight ? parameter_in(acl, weight, inputs[2], kNormParameter) : weight;
    into_apart(acl, outputs[1], outputs[0], [&](const Tensor& y) { rms_norm(acl, outputs[1], w, eps, y); });
  });
}

std::unique_ptr<Kernel> make_rms_norm_rope(const KernelRequest& request) {
  const auto& op = static_cast<const RmsNormRopeOp&>(request.op);
  const bool has_weight = request.inputs.size() > 3;
  const Tensor weight =
      has_weight ? parameter(request, 3, kNormParameter) : ones(request, request.inputs[0].prototype.shape().back());
  return make_acl_kernel(
      [=, eps = op.eps(), mode = op.mode()](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        const Tensor w = has_weight ? parameter_in(acl, weight, inputs[3], kNormParameter) : weight;
        const Tensor normed = acl.temporary(inputs[0].shape(), inputs[0].dtype());
        rms_norm(acl, inputs[0], w, eps, normed);
        rotate(acl, normed, inputs[1], inputs[2], mode, outputs[0]);
      });
}

std::unique_ptr<Kernel> make_rope(const KernelRequest& request) {
  return make_acl_kernel([mode = static_cast<const RopeOp&>(request.op).mode()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    rotate(acl, inputs[0], inputs[1], inputs[2], mode, outputs[0]);
  });
}

std::unique_ptr<Kernel> make_layer_norm(const KernelRequest& request) {
  const double eps = static_cast<const LayerNormOp&>(request.op).eps();
  const bool affine = request.inputs.size() > 1;
  const Tensor weight = affine ? parameter(request, 1, kNormParameter) : Tensor();
  const Tensor bias = affine ? parameter(request, 2, kNormParameter) : Tensor();
  return make_acl_kernel([=](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor w = affine ? parameter_in(acl, weight, inputs[1], kNormParameter) : Tensor();
    const Tensor b = affine ? parameter_in(acl, bias, inputs[2], kNormParameter) : Tensor();
    into_apart(acl, inputs[0], outputs[0], [&](const Tensor& y) { layer_norm(acl, inputs[0], w, b, eps, y); });
  });
}

/// By AdaLayerNorm where this CANN has it and the shapes are its own, else LayerNorm and a modulation.
std::unique_ptr<Kernel> make_adaptive_norm(const KernelRequest& request) {
  const double eps = static_cast<const LayerNormScaleShiftOp&>(request.op).eps();
  const bool affine = request.inputs.size() > 3;
  const Tensor weight = affine ? parameter(request, 3, kNormParameter) : Tensor();
  const Tensor bias = affine ? parameter(request, 4, kNormParameter) : Tensor();
  return make_acl_kernel([=](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor& x = inputs[0];
    const bool one_a_batch = with_token_axis(inputs[1]).shape()[1] == 1 && with_token_axis(inputs[2]).shape()[1] == 1;
    if (!affine && one_a_batch && acl.has(kAdaLayerNorm.name)) {
      const Tensor scale = acl.dense(with_token_axis(inputs[1]));
      const Tensor shift = acl.dense(with_token_axis(inputs[2]));
      return into_apart(acl, x, outputs[0], [&](const Tensor& y) {
        acl.call(kAdaLayerNorm, acl.tensor(x), acl.tensor(scale), acl.tensor(shift), nullptr, nullptr, eps,
                 acl.tensor(y));
      });
    }
    const Tensor w = affine ? parameter_in(acl, weight, inputs[3], kNormParameter) : Tensor();
    const Tensor b = affine ? parameter_in(acl, bias, inputs[4], kNormParameter) : Tensor();
    const Tensor normed = acl.temporary(x.shape(), x.dtype());
    layer_norm(acl, x, w, b, eps, normed);
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
    acl.multiply_add(inputs[0], with_token_axis(inputs[1]), inputs[2], outputs[0]);
  });
}

Refusal supports_rms_norm(const KernelRequest& request) {
  return refuse_unless(request, 1, {kRmsNorm.name, kCopy.name});
}
Refusal supports_layer_norm(const KernelRequest& request) {
  return refuse_unless(request, 1, {kLayerNorm.name, kAddScalar.name, kAddcmul.name, kCopy.name});
}
Refusal supports_rms_norm_rope(const KernelRequest& request) {
  const Refusal norm = supports_rms_norm(request);
  return norm ? norm : supports_rotation(request);
}
Refusal supports_gate(const KernelRequest& request) {
  return refuse_unless(request, 3, {kAddcmul.name, kAddScalar.name});
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
