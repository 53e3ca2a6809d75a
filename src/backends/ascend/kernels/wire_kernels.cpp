// Rows in 8 bits for the way between ranks: DynamicQuant where it takes the dtype, and the scales' bytes beside the
// values.
#include <array>
#include <limits>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/wire_rows.h"

namespace rondo::ascend {
namespace {

constexpr std::int64_t kScaleBytes = sizeof(float);

Refusal supports_to_wire(const KernelRequest& request) {
  if (request.inputs[0].prototype.dtype() != DType::f32)
    return refuse_unless(request, 1, {kDynamicQuant.name, kCopy.name});
  return refuse_unless(request, 1,
                       {kMultiplyScalar.name, kMaximum.name, kAmax.name, kClampMin.name, kDivide.name, kRound.name,
                        kCast.name, kCopy.name});
}

Refusal supports_from_wire(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes a dense input only";
  return refuse_unless(request, 0, {kCast.name, kMultiply.name, kCopy.name});
}

/// x's rows as [rows, width].
Tensor in_rows(AclCaller& acl, const Tensor& x) {
  const Tensor dense = acl.dense(x);
  return dense.reshaped({x.shape().rows(), x.shape().back()});
}

/// float32 [rows] as the bytes that it is made of.
Tensor bytes_of(const Tensor& scales) {
  return Tensor::share(std::make_shared<Tensor>(scales), scales.data(), {scales.elements(), kScaleBytes}, DType::s8,
                       scales.device());
}

/// What DynamicQuant does, of float32 [rows, width], which it does not take. Scales are [rows].
void quantize_rows(AclCaller& acl, const Tensor& x, const Tensor& rounded, const Tensor& scales) {
  constexpr double kMost = 127;
  constexpr std::array<std::int64_t, 1> kLastOfTwo{1};
  const Tensor work = acl.temporary(x.shape(), DType::f32);
  acl.multiply_scalar(x, -1, work);
  acl.call(kMaximum, acl.tensor(x), acl.tensor(work), acl.tensor(work));
  const Tensor scale = scales.reshaped({x.shape()[0], 1});
  acl.call(kAmax, acl.tensor(work), acl.ints(kLastOfTwo), true, acl.tensor(scale));
  acl.multiply_scalar(scale, 1 / kMost, scale);
  const Tensor divisor = acl.temporary(scale.shape(), DType::f32);  // a row of zeros stays one
  acl.call(kClampMin, acl.tensor(scale), acl.scalar(std::numeric_limits<float>::min()), acl.tensor(divisor));
  acl.call(kDivide, acl.tensor(x), acl.tensor(divisor), acl.tensor(work));
  acl.call(kRound, acl.tensor(work), acl.tensor(work));
  acl.call(kCast, acl.tensor(work), AclDtype::int8, acl.tensor(rounded));
}

std::unique_ptr<Kernel> make_to_wire(const KernelRequest& request) {
  return make_acl_kernel([parts = static_cast<const RowsToWireOp&>(request.op).parts()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor x = in_rows(acl, inputs[0]);
    acl.into(outputs[0], [&](const Tensor& y) {
      const Tensor wire = y.reshaped({x.shape()[0], y.shape().back()});
      std::int64_t begin = 0;
      std::int64_t scale_begin = x.shape()[1];
      for (const std::int64_t width : parts) {
        const Tensor values = acl.dense(x.sliced(1, begin, begin + width));
        const Tensor rounded = acl.temporary(values.shape(), DType::s8);
        const Tensor scales = acl.temporary({x.shape()[0]}, DType::f32);
        if (values.dtype() == DType::f32) {
          quantize_rows(acl, values, rounded, scales);
        } else {
          acl.call(kDynamicQuant, acl.tensor(values), nullptr, acl.tensor(rounded), acl.tensor(scales));
        }
        acl.copy(rounded, wire.sliced(1, begin, begin + width));
        acl.copy(bytes_of(scales), wire.sliced(1, scale_begin, scale_begin + kScaleBytes));
        begin += width;
        scale_begin += kScaleBytes;
      }
    });
  });
}

std::unique_ptr<Kernel> make_from_wire(const KernelRequest& request) {
  return make_acl_kernel([parts = static_cast<const RowsFromWireOp&>(request.op).parts()](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor wire = in_rows(acl, inputs[0]);
    const std::int64_t rows = wire.shape()[0];
    acl.into(outputs[0], [&](const Tensor& y) {
      const Tensor in_rows_of_y = y.reshaped({rows, y.shape().back()});
      std::int64_t begin = 0;
      std::int64_t scale_begin = y.shape().back();
      for (const std::int64_t width : parts) {
        Tensor scales = acl.temporary({rows, 1}, DType::f32);
        acl.copy(wire.sliced(1, scale_begin, scale_begin + kScaleBytes), bytes_of(scales));
        const Tensor values = acl.temporary({rows, width}, DType::f32);
        acl.call(kCast, acl.tensor(wire.sliced(1, begin, begin + width)), AclDtype::float32, acl.tensor(values));
        acl.multiply(values, scales, values);
        acl.copy(values, in_rows_of_y.sliced(1, begin, begin + width));
        begin += width;
        scale_begin += kScaleBytes;
      }
    });
  });
}

constexpr std::array kEntries{
    KernelEntry{"rows_to_wire", "dynamic-quant", false, supports_to_wire, make_to_wire},
    KernelEntry{"rows_from_wire", "elements", false, supports_from_wire, make_from_wire},
};

}  // namespace

std::span<const KernelEntry> wire_kernels() { return kEntries; }

}  // namespace rondo::ascend
