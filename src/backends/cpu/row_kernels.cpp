// Kernels that go over rows one at a time: norms, modulation, activations, sums, RoPE, casts.
#include <array>

#include "backends/cpu/function_kernel.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/simd_rows.h"
#include "core/threads.h"
#include "ops/elementwise.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo::cpu {
namespace {

/// Rows for one thread to be worth waking it: 16 K elements take about 2 us, as long as a fork and join.
std::int64_t row_grain(std::int64_t width) {
  return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, width));
}

template <typename Body>
void over_rows(const KernelArgs& args, const Shape& shape, const Body& body) {
  parallel_ranges(args.threads, shape.rows(), row_grain(shape.back()), [&](std::int64_t begin, std::int64_t end) {
    body(RowRange{begin, end, shape.back()});
  });
}

Refusal refuse_norm(const KernelRequest& request) {
  for (const KernelInput& parameter : request.inputs.subspan(1)) {
    if (!is_float_vector(parameter.prototype)) return "takes float32 weight and bias only";
  }
  return refuse_unless_simd_rows(request, 1);
}

const float* parameter(const KernelArgs& args, std::size_t index) {
  return index < args.inputs.size() ? args.inputs[index].as<float>() : nullptr;
}

std::unique_ptr<Kernel> make_rms_norm(const KernelRequest& request) {
  const auto eps = static_cast<float>(static_cast<const RmsNormOp&>(request.op).eps());
  return make_kernel([eps](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(),
              [&](RowRange rows) { rms_norm_rows(args.inputs[0].dtype(), x, parameter(args, 1), eps, y, rows); });
  });
}

std::unique_ptr<Kernel> make_layer_norm(const KernelRequest& request) {
  const auto eps = static_cast<float>(static_cast<const LayerNormOp&>(request.op).eps());
  return make_kernel([eps](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(), [&](RowRange rows) {
      layer_norm_rows(args.inputs[0].dtype(), x, parameter(args, 1), parameter(args, 2), eps, y, rows);
    });
  });
}

std::unique_ptr<Kernel> make_modulate(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap scale(args.inputs[1]);
    const RowMap shift(args.inputs[2]);
    const RowMap y(args.outputs[0]);
    const Shape& shape = args.inputs[0].shape();
    over_rows(args, shape,
              [&](RowRange rows) { modulate_rows(args.inputs[0].dtype(), x, scale, shift, shape[1], y, rows); });
  });
}

std::unique_ptr<Kernel> make_gated_add(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const RowMap residual(args.inputs[0]);
    const RowMap gate(args.inputs[1]);
    const RowMap x(args.inputs[2]);
    const RowMap y(args.outputs[0]);
    const Shape& shape = args.inputs[0].shape();
    over_rows(args, shape,
              [&](RowRange rows) { gated_add_rows(args.inputs[0].dtype(), residual, gate, x, shape[1], y, rows); });
  });
}

std::unique_ptr<Kernel> make_activation(const KernelRequest& request) {
  const ActivationKind kind = static_cast<const ActivationOp&>(request.op).kind();
  return make_kernel([kind](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(),
              [&](RowRange rows) { activation_rows(args.inputs[0].dtype(), kind, x, y, rows); });
  });
}

/// A second operand of rank 0 would have no rows.
Refusal refuse_binary(const KernelRequest& request) {
  if (request.inputs[1].prototype.shape().rank() == 0) return "takes a second operand of rank 1 or more";
  return refuse_unless_simd_rows(request, 2);
}

std::unique_ptr<Kernel> make_binary(const KernelRequest& request) {
  const BinaryKind kind = static_cast<const BinaryOp&>(request.op).kind();
  return make_kernel([kind](const KernelArgs& args) {
    const RowMap a(args.inputs[0]);
    const RowMap b(args.inputs[1]);
    const RowMap y(args.outputs[0]);
    const std::int64_t period = args.inputs[1].shape().rows();
    over_rows(args, args.inputs[0].shape(),
              [&](RowRange rows) { binary_rows(args.inputs[0].dtype(), kind, a, b, period, y, rows); });
  });
}

Refusal refuse_cast(const KernelRequest& request) {
  const DType to = request.outputs[0].dtype;
  if (to != DType::f32 && to != DType::bf16) return "takes float32 and bfloat16 only";
  return refuse_unless_simd_rows(request, 1);
}

std::unique_ptr<Kernel> make_cast(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(),
              [&](RowRange rows) { cast_rows(args.inputs[0].dtype(), x, args.outputs[0].dtype(), y, rows); });
  });
}

std::unique_ptr<Kernel> make_rope(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    const Shape& shape = args.inputs[0].shape();
    over_rows(args, shape, [&](RowRange rows) {
      rope_rows(args.inputs[0].dtype(), x, args.inputs[1].as<float>(), args.inputs[2].as<float>(), shape[2], shape[1],
                y, rows);
    });
  });
}

Refusal refuse_all_inputs(const KernelRequest& request) {
  return refuse_unless_simd_rows(request, request.inputs.size());
}
Refusal refuse_first_input(const KernelRequest& request) { return refuse_unless_simd_rows(request, 1); }

constexpr std::array kEntries{
    KernelEntry{"rms_norm", "simd", false, refuse_norm, make_rms_norm},
    KernelEntry{"layer_norm", "simd", false, refuse_norm, make_layer_norm},
    KernelEntry{"modulate", "simd", false, refuse_all_inputs, make_modulate},
    KernelEntry{"gated_add", "simd", false, refuse_all_inputs, make_gated_add},
    KernelEntry{"activation", "simd", false, refuse_first_input, make_activation},
    KernelEntry{"add", "simd", false, refuse_binary, make_binary},
    KernelEntry{"multiply", "simd", false, refuse_binary, make_binary},
    KernelEntry{"cast", "simd", false, refuse_cast, make_cast},
    KernelEntry{"rope", "simd", false, refuse_norm, make_rope},
};

}  // namespace

std::span<const KernelEntry> row_kernels() { return kEntries; }

}  // namespace rondo::cpu
