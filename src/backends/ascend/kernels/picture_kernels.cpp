// Operators on pictures, which are channels-last here and channels-first in CANN: copied there and back.
#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/conv2d.h"
#include "ops/norms.h"

namespace rondo::ascend {
namespace {

/// x [B, ..., C] as [B, C, positions], a view.
Tensor channels_first(const Tensor& x) {
  const std::int64_t channels = x.shape().back();
  return x.reshaped({x.shape()[0], x.elements() / (x.shape()[0] * channels), channels}).transposed(1, 2);
}

Refusal supports_conv2d(const KernelRequest& request) {
  return refuse_unless(request, 1, {kConvolution.name, kCopy.name, kFill.name});
}

/// What a convolution reads, channels first, and the padding that is left to it: CANN's has the same on opposite sides.
struct PaddedPicture {
  Tensor picture;
  std::array<std::int64_t, 2> padding;
};

PaddedPicture padded(AclCaller& acl, const Tensor& x, const Conv2dOp::Padding& p) {
  const Shape& in = x.shape();
  const Tensor source = channels_first(acl.dense(x));
  if (p.top == p.bottom && p.left == p.right) {
    const Tensor picture = acl.temporary({in[0], in[3], in[1], in[2]}, x.dtype());
    acl.copy(source, picture.reshaped({in[0], in[3], in[1] * in[2]}));
    return {picture, {p.top, p.left}};
  }
  const Tensor picture = acl.temporary({in[0], in[3], in[1] + p.top + p.bottom, in[2] + p.left + p.right}, x.dtype());
  acl.call(kFill, acl.tensor(picture), acl.scalar(0));
  const Shape& strides = source.strides();
  acl.copy(source.restrided({in[0], in[3], in[1], in[2]}, {strides[0], strides[1], in[2] * strides[2], strides[2]}),
           picture.sliced(2, p.top, p.top + in[1]).sliced(3, p.left, p.left + in[2]));
  return {picture, {0, 0}};
}

std::unique_ptr<Kernel> make_conv2d(const KernelRequest& request) {
  const auto& op = static_cast<const Conv2dOp&>(request.op);
  const DType dtype = request.inputs[0].prototype.dtype();
  const bool has_bias = request.inputs.size() > 2;
  const Tensor weight = stored_parameter(request, 1, dtype);
  const Tensor bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor();
  const std::int8_t math = capabilities_of(request).f32_products ? 0 : 1;
  return make_acl_kernel([&op, dtype, has_bias, weight, bias, math](AclCaller& acl, std::span<const Tensor> inputs,
                                                                    std::span<Tensor> outputs) {
    const Shape& out = outputs[0].shape();
    const Tensor w = parameter_in(acl, weight, inputs[1], dtype);
    const Tensor b = has_bias ? parameter_in(acl, bias, inputs[2], dtype) : Tensor();
    const PaddedPicture x = padded(acl, inputs[0], op.padding());
    const Tensor y = acl.temporary({out[0], out[3], out[1], out[2]}, dtype);
    const std::array stride{op.stride(), op.stride()};
    const std::array<std::int64_t, 2> one{1, 1};
    const std::array<std::int64_t, 2> none{0, 0};
    acl.call(kConvolution, acl.tensor(x.picture, AclFormat::nchw), acl.tensor(w, AclFormat::nchw), acl.tensor(b),
             acl.ints(stride), acl.ints(x.padding), acl.ints(one), false, acl.ints(none), 1,
             acl.tensor(y, AclFormat::nchw), math);
    acl.copy(y.reshaped({out[0], out[3], out[1] * out[2]}).transposed(1, 2),
             outputs[0].reshaped({out[0], out[1] * out[2], out[3]}));
  });
}

Refusal supports_group_norm(const KernelRequest& request) {
  return refuse_unless(request, 1, {kGroupNorm.name, kCopy.name});
}

std::unique_ptr<Kernel> make_group_norm(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormOp&>(request.op);
  const DType dtype = request.inputs[0].prototype.dtype();
  const Tensor weight = stored_parameter(request, 1, dtype);
  const Tensor bias = stored_parameter(request, 2, dtype);
  return make_acl_kernel(
      [&op, dtype, weight, bias](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
        const Tensor w = parameter_in(acl, weight, inputs[1], dtype);
        const Tensor b = parameter_in(acl, bias, inputs[2], dtype);
        const Tensor first = channels_first(acl.dense(inputs[0]));
        const Tensor x = acl.dense(first);
        const Tensor y = acl.temporary(first.shape(), dtype);
        const Shape& s = first.shape();
        const Tensor mean = acl.temporary({s[0], op.groups()}, dtype);
        const Tensor reciprocal = acl.temporary({s[0], op.groups()}, dtype);
        acl.call(kGroupNorm, acl.tensor(x), acl.tensor(w), acl.tensor(b), s[0], s[1], s[2], op.groups(), op.eps(),
                 acl.tensor(y), acl.tensor(mean), acl.tensor(reciprocal));
        acl.copy(y.transposed(1, 2), outputs[0].reshaped({s[0], s[2], s[1]}));
      });
}

constexpr std::array kEntries{
    KernelEntry{"conv2d", "convolution", true, supports_conv2d, make_conv2d},
    KernelEntry{"group_norm", "group-norm", true, supports_group_norm, make_group_norm},
};

}  // namespace

std::span<const KernelEntry> picture_kernels() { return kEntries; }

}  // namespace rondo::ascend
