// Rows by index or position.
#include <array>

#include "backends/ascend/kernels/acl_kernel.h"
#include "ops/lookup.h"

namespace rondo::ascend {
namespace {

/// Indices within [0, count): CANN does not look, and reads whatever lies there.
Tensor clamped(AclCaller& acl, const Tensor& indices, std::int64_t count) {
  Tensor safe = acl.temporary(indices.shape(), indices.dtype());
  acl.call(kClamp, acl.tensor(indices), acl.scalar(0, DType::s64),
           acl.scalar(static_cast<double>(count - 1), DType::s64), acl.tensor(safe));
  return safe;
}

Refusal supports_embedding(const KernelRequest& request) {
  const Tensor& table = request.inputs[1].prototype;
  if (table.dtype() != DType::f32 && table.dtype() != DType::bf16 && table.dtype() != DType::f16)
    return "takes float32, bfloat16 and float16 tables only";
  return refuse_unless(request, 0, {kEmbedding.name, kClamp.name, kCopy.name});
}

std::unique_ptr<Kernel> make_embedding(const KernelRequest& request) {
  const Tensor table = stored_parameter(request, 1, request.outputs[0].dtype());
  return make_acl_kernel([table](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor rows = parameter_in(acl, table, inputs[1], outputs[0].dtype());
    const Tensor ids = clamped(acl, inputs[0], rows.shape()[0]);
    acl.into(outputs[0],
             [&](const Tensor& y) { acl.call(kEmbedding, acl.tensor(rows), acl.tensor(ids), acl.tensor(y)); });
  });
}

Refusal supports_select(const KernelRequest& request) {
  return refuse_unless(request, 1, {kIndexSelect.name, kClamp.name});
}

std::unique_ptr<Kernel> make_select_row(const KernelRequest& /*request*/) {
  return make_acl_kernel([](AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Shape& s = inputs[0].shape();
    const Tensor index = clamped(acl, inputs[1], s[1]);
    for (std::int64_t b = 0; b < s[0]; ++b) {
      const Tensor rows = acl.dense(inputs[0].sliced(0, b, b + 1)).reshaped({s[1], s[2]});
      acl.call(kIndexSelect, acl.tensor(rows), 0, acl.tensor(index.sliced(0, b, b + 1)),
               acl.tensor(outputs[0].sliced(0, b, b + 1)));
    }
  });
}

Refusal supports_bias(const KernelRequest& request) {
  return refuse_unless(request, 1, {kIndexSelect.name, kCopy.name});
}

/// The bucket of every pair of positions is known beforehand.
std::unique_ptr<Kernel> make_position_bias(const KernelRequest& request) {
  const auto& op = static_cast<const RelativePositionBiasOp&>(request.op);
  const Shape& table_shape = request.inputs[0].prototype.shape();
  const std::int64_t length = request.outputs[0].shape()[2];
  const Tensor buckets = op.bucket_table(table_shape[0]);
  const Tensor table = stored_parameter(request, 0, DType::f32);
  return make_acl_kernel([table, length, heads = table_shape[1], index = request.device->upload(buckets)](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor rows = parameter_in(acl, table, inputs[0], DType::f32);
    const Tensor picked = acl.temporary({length * length, heads}, DType::f32);
    acl.call(kIndexSelect, acl.tensor(rows), 0, acl.tensor(index), acl.tensor(picked));
    acl.copy(picked.transposed(0, 1), outputs[0].reshaped({heads, length * length}));
  });
}

Refusal supports_sinusoid(const KernelRequest& request) {
  return refuse_unless(request, 1, {kMultiply.name, kCos.name, kSin.name, kCopy.name});
}

std::unique_ptr<Kernel> make_sinusoid(const KernelRequest& request) {
  const std::int64_t half = request.outputs[0].shape().back() / 2;
  return make_acl_kernel([half, frequency = request.device->upload(TimestepSinusoidOp::frequencies(2 * half))](
                             AclCaller& acl, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const std::int64_t batch = inputs[0].shape()[0];
    const Tensor angle = acl.temporary({batch, half}, DType::f32);
    const Tensor wide = acl.temporary({batch, half}, DType::f32);
    acl.multiply(acl.dense(inputs[0]).reshaped({batch, 1}), frequency, angle);
    acl.call(kCos, acl.tensor(angle), acl.tensor(wide));
    acl.copy(wide, outputs[0].sliced(1, 0, half));
    acl.call(kSin, acl.tensor(angle), acl.tensor(wide));
    acl.copy(wide, outputs[0].sliced(1, half, 2 * half));
  });
}

constexpr std::array kEntries{
    KernelEntry{"embedding", "embedding", true, supports_embedding, make_embedding},
    KernelEntry{"select_row", "index-select", false, supports_select, make_select_row},
    KernelEntry{"relative_position_bias", "index-select", true, supports_bias, make_position_bias},
    KernelEntry{"timestep_sinusoid", "elements", false, supports_sinusoid, make_sinusoid},
};

}  // namespace

std::span<const KernelEntry> lookup_kernels() { return kEntries; }

}  // namespace rondo::ascend
