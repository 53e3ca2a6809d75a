// GroupNorm of pictures whose rows lie on several ranks, in two halves (ops/group_moments.h), in float32.
#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/group_moments.h"

namespace rondo::ascend {
namespace {

constexpr std::array<std::int64_t, 1> kLastOfThree{2};

/// Dense x [B, ..., C] as [B, positions, groups, channels of a group].
Tensor by_group(const Tensor& x, std::int64_t groups) {
  const Shape& s = x.shape();
  return x.reshaped({s[0], x.elements() / (s[0] * s.back()), groups, s.back() / groups});
}

/// [B, groups] beside by_group().
Tensor beside_group(const Tensor& x) {
  const Shape& strides = x.strides();
  return x.restrided({x.shape()[0], 1, x.shape()[1], 1}, {strides[0], 0, strides[1], 0});
}

/// y [B, groups, 1] = the mean over x [B, groups, n].
void mean(AclCaller& acl, const Tensor& x, const Tensor& y) {
  acl.call(kReduceSum, acl.tensor(x), acl.ints(kLastOfThree), true, AclDtype::float32, acl.tensor(y));
  acl.multiply_scalar(y, 1.0 / static_cast<double>(x.shape()[2]), y);
}

Refusal supports_moments(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes dense pictures only";
  return refuse_unless(request, 1, {kReduceSum.name, kMultiplyScalar.name, kSubtract.name, kMultiply.name, kFill.name});
}

std::unique_ptr<Kernel> make_moments(const KernelRequest& request) {
  return make_acl_kernel([groups = static_cast<const GroupMomentsOp&>(request.op).groups()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor& y = outputs[0];
    if (inputs[0].elements() == 0) return acl.call(kFill, acl.tensor(y), acl.scalar(0));
    const Tensor x = by_group(inputs[0], groups);
    const Shape& s = x.shape();
    // One group after the other, so that a sum goes over the last axis.
    const Tensor values = acl.temporary({s[0], groups, s[1] * s[3]}, DType::f32);
    const Tensor in_order = values.reshaped({s[0], groups, s[1], s[3]});
    acl.copy(x, in_order.transposed(1, 2));
    const Tensor center = acl.temporary({s[0], groups, 1}, DType::f32);
    const Tensor spread = acl.temporary({s[0], groups, 1}, DType::f32);
    mean(acl, values, center);
    acl.call(kSubtract, acl.tensor(values), acl.tensor(center), acl.scalar(1), acl.tensor(values));
    acl.multiply(values, values, values);
    mean(acl, values, spread);
    acl.copy(center, y.sliced(2, 0, 1));
    acl.copy(spread, y.sliced(2, 1, 2));
  });
}

/// Mean and variance [B, groups] of all parts.
struct Moments {
  Tensor mean;
  Tensor variance;
};

Moments joined(AclCaller& acl, const Tensor& parts, const std::vector<std::int64_t>& counts) {
  double all = 0;
  for (const std::int64_t count : counts) all += static_cast<double>(count);
  const Shape& s = parts.shape();
  const auto moment = [&](std::size_t part, std::int64_t which) {
    const auto p = static_cast<std::int64_t>(part);
    const Tensor some = parts.sliced(0, p, p + 1).sliced(3, which, which + 1);
    return some.restrided({s[1], s[2]}, {some.strides()[1], some.strides()[2]});
  };
  const auto zeros = [&] {
    Tensor x = acl.temporary({s[1], s[2]}, DType::f32);
    acl.call(kFill, acl.tensor(x), acl.scalar(0));
    return x;
  };
  Moments result{zeros(), zeros()};
  const Tensor term = acl.temporary({s[1], s[2]}, DType::f32);
  for (std::size_t part = 0; part < counts.size(); ++part) {
    acl.multiply_scalar(moment(part, 0), static_cast<double>(counts[part]) / all, term);
    acl.add(result.mean, term, result.mean);
  }
  for (std::size_t part = 0; part < counts.size(); ++part) {
    acl.call(kSubtract, acl.tensor(moment(part, 0)), acl.tensor(result.mean), acl.scalar(1), acl.tensor(term));
    acl.multiply(term, term, term);
    acl.add(term, moment(part, 1), term);
    acl.multiply_scalar(term, static_cast<double>(counts[part]) / all, term);
    acl.add(result.variance, term, result.variance);
  }
  return result;
}

Refusal supports_norm(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes dense pictures only";
  return refuse_unless(request, 1,
                       {kFill.name, kMultiplyScalar.name, kAdd.name, kSubtract.name, kMultiply.name, kRsqrt.name,
                        kAddScalar.name, kAddcmul.name});
}

std::unique_ptr<Kernel> make_norm(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormByMomentsOp&>(request.op);
  return make_acl_kernel([&op, weight = stored_parameter(request, 2, DType::f32),
                          bias = stored_parameter(request, 3, DType::f32)](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    if (inputs[0].elements() == 0) return;
    const Tensor w = parameter_in(acl, weight, inputs[2], DType::f32);
    const Tensor b = parameter_in(acl, bias, inputs[3], DType::f32);
    const std::int64_t groups = inputs[1].shape()[2];
    const Moments moments = joined(acl, inputs[1], op.counts());
    acl.add_scalar(moments.variance, op.eps(), moments.variance);
    acl.call(kRsqrt, acl.tensor(moments.variance), acl.tensor(moments.variance));
    const Tensor x = by_group(inputs[0], groups);
    const Tensor normed = acl.temporary(x.shape(), DType::f32);
    acl.copy(x, normed);
    acl.call(kSubtract, acl.tensor(normed), acl.tensor(beside_group(moments.mean)), acl.scalar(1), acl.tensor(normed));
    acl.multiply(normed, beside_group(moments.variance), normed);
    const Shape of_channels{1, 1, groups, x.shape()[3]};
    acl.multiply_add(acl.dense(b).reshaped(of_channels), normed, acl.dense(w).reshaped(of_channels), normed);
    acl.copy(normed, by_group(outputs[0], groups));
  });
}

constexpr std::array kEntries{
    KernelEntry{"group_moments", "elements", false, supports_moments, make_moments},
    KernelEntry{"group_norm_by_moments", "elements", true, supports_norm, make_norm},
};

}  // namespace

std::span<const KernelEntry> group_moments_kernels() { return kEntries; }

}  // namespace rondo::ascend
