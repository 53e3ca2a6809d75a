// Kernels of norms, modulation and rotation, alone and fused.
#include <array>

#include "backends/cpu/kernel_checks.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/modulation_rows.h"
#include "backends/cpu/over_rows.h"
#include "backends/cpu/simd_norms.h"
#include "backends/function_kernel.h"
#include "ops/fused_norms.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo::cpu {
namespace {

/// x in a SIMD dtype; inputs from `first` on are a norm's parameters or a rotation's tables.
Refusal refuse_parameters(const KernelRequest& request, std::size_t first) {
  for (const KernelInput& parameter : request.inputs.subspan(first)) {
    if (!is_float_vector(parameter.prototype)) return "takes dense float32 weights, biases and tables only";
  }
  return refuse_unless_simd_rows(request, 1);
}

Refusal refuse_norm(const KernelRequest& request) { return refuse_parameters(request, 1); }

Refusal refuse_add_norm(const KernelRequest& request) {
  if (auto refusal = refuse_unless_simd_rows(request, 2)) return refusal;
  return refuse_parameters(request, 2);
}

/// Scale, shift or gate may be in any SIMD dtype.
Refusal refuse_modulations(const KernelRequest& request, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i < last; ++i) {
    const Tensor& vector = request.inputs[i].prototype;
    if (!is_simd_dtype(vector.dtype())) return "takes float32, bfloat16 and float16 only";
    if (!has_dense_rows(vector)) return "takes dense rows only";
  }
  return std::nullopt;
}

Refusal refuse_modulate(const KernelRequest& request) {
  if (auto refusal = refuse_modulations(request, 1, 3)) return refusal;
  return refuse_parameters(request, 3);
}

Refusal refuse_gated_add(const KernelRequest& request) {
  if (auto refusal = refuse_modulations(request, 1, 2)) return refusal;
  if (request.inputs[2].prototype.dtype() != request.inputs[0].prototype.dtype())
    return "takes inputs of one dtype only";
  if (!has_dense_rows(request.inputs[2].prototype)) return "takes dense rows only";
  return refuse_unless_simd_rows(request, 1);
}

const float* parameter(const KernelArgs& args, std::size_t index) {
  return index < args.inputs.size() ? args.inputs[index].as<float>() : nullptr;
}

/// A table [S, columns] with a row for each row of x [B, S, N, D].
RowMap table_rows(const Tensor& table, const Shape& x) {
  const std::int64_t columns = table.shape()[1];
  return RowMap(table.restrided({x[0], x[1], x[2], columns}, {0, columns, 0, 1}));
}

std::unique_ptr<Kernel> make_rms_norm(const KernelRequest& request) {
  const auto eps = static_cast<float>(static_cast<const RmsNormOp&>(request.op).eps());
  return make_kernel([eps](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(), [&](RowRange rows) { rms_norm_rows(x, parameter(args, 1), eps, y, rows); });
  });
}

std::unique_ptr<Kernel> make_add_rms_norm(const KernelRequest& request) {
  const auto eps = static_cast<float>(static_cast<const AddRmsNormOp&>(request.op).eps());
  return make_kernel([eps](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap residual(args.inputs[1]);
    const RowMap normed(args.outputs[0]);
    const RowMap sum(args.outputs[1]);
    over_rows(args, args.inputs[0].shape(),
              [&](RowRange rows) { add_rms_norm_rows(x, residual, parameter(args, 2), eps, normed, sum, rows); });
  });
}

std::unique_ptr<Kernel> make_layer_norm(const KernelRequest& request) {
  const auto eps = static_cast<float>(static_cast<const LayerNormOp&>(request.op).eps());
  return make_kernel([eps](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(),
              [&](RowRange rows) { layer_norm_rows(x, parameter(args, 1), parameter(args, 2), eps, y, rows); });
  });
}

std::unique_ptr<Kernel> make_modulate(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const Shape& shape = args.inputs[0].shape();
    const RowMap x(args.inputs[0]);
    const RowMap scale = modulation_rows(args.inputs[1], shape);
    const RowMap shift = modulation_rows(args.inputs[2], shape);
    const RowMap y(args.outputs[0]);
    over_rows(args, shape, [&](RowRange rows) { modulate_rows(x, scale, shift, y, rows); });
  });
}

std::unique_ptr<Kernel> make_layernorm_scale_shift(const KernelRequest& request) {
  const auto eps = static_cast<float>(static_cast<const LayerNormScaleShiftOp&>(request.op).eps());
  return make_kernel([eps](const KernelArgs& args) {
    const Shape& shape = args.inputs[0].shape();
    const RowMap x(args.inputs[0]);
    const RowMap scale = modulation_rows(args.inputs[1], shape);
    const RowMap shift = modulation_rows(args.inputs[2], shape);
    const RowMap y(args.outputs[0]);
    over_rows(args, shape, [&](RowRange rows) {
      layer_norm_modulate_rows(x, parameter(args, 3), parameter(args, 4), eps, scale, shift, y, rows);
    });
  });
}

std::unique_ptr<Kernel> make_gated_add(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const Shape& shape = args.inputs[0].shape();
    const RowMap residual(args.inputs[0]);
    const RowMap gate = modulation_rows(args.inputs[1], shape);
    const RowMap x(args.inputs[2]);
    const RowMap y(args.outputs[0]);
    over_rows(args, shape, [&](RowRange rows) { gated_add_rows(residual, gate, x, y, rows); });
  });
}

/// Calls turn(rotation, x, y, rows) for all rows of the first input.
template <typename Turn>
void over_turned_rows(const KernelArgs& args, RotaryMode mode, const Turn& turn) {
  const Shape& shape = args.inputs[0].shape();
  const RowMap x(args.inputs[0]);
  const RowMap y(args.outputs[0]);
  const RowMap cos = table_rows(args.inputs[1], shape);
  const RowMap sin = table_rows(args.inputs[2], shape);
  const Rotation rotation{mode, cos, sin, args.inputs[1].shape()[1] != shape[3]};
  over_rows(args, shape, [&](RowRange rows) { turn(rotation, x, y, rows); });
}

std::unique_ptr<Kernel> make_rope(const KernelRequest& request) {
  const RotaryMode mode = static_cast<const RopeOp&>(request.op).mode();
  return make_kernel([mode](const KernelArgs& args) {
    over_turned_rows(args, mode, [](const Rotation& rotation, const RowMap& x, const RowMap& y, RowRange rows) {
      rope_rows(x, rotation, y, rows);
    });
  });
}

std::unique_ptr<Kernel> make_rms_norm_rope(const KernelRequest& request) {
  const auto& op = static_cast<const RmsNormRopeOp&>(request.op);
  return make_kernel([mode = op.mode(), eps = static_cast<float>(op.eps())](const KernelArgs& args) {
    over_turned_rows(args, mode, [&](const Rotation& rotation, const RowMap& x, const RowMap& y, RowRange rows) {
      rms_norm_rope_rows(x, parameter(args, 3), eps, rotation, y, rows);
    });
  });
}

std::unique_ptr<Kernel> make_swiglu(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.outputs[0].shape(), [&](RowRange rows) { swiglu_rows(x, y, rows); });
  });
}

Refusal refuse_only_input(const KernelRequest& request) { return refuse_unless_simd_rows(request, 1); }

constexpr std::array kEntries{
    KernelEntry{"rms_norm", "simd", false, refuse_norm, make_rms_norm},
    KernelEntry{"add_rms_norm", "simd", false, refuse_add_norm, make_add_rms_norm},
    KernelEntry{"layer_norm", "simd", false, refuse_norm, make_layer_norm},
    KernelEntry{"layernorm_scale_shift", "simd", false, refuse_modulate, make_layernorm_scale_shift},
    KernelEntry{"modulate", "simd", false, refuse_modulate, make_modulate},
    KernelEntry{"gated_add", "simd", false, refuse_gated_add, make_gated_add},
    KernelEntry{"rope", "simd", false, refuse_norm, make_rope},
    KernelEntry{"rms_norm_rope", "simd", false, refuse_norm, make_rms_norm_rope},
    KernelEntry{"swiglu", "simd", false, refuse_only_input, make_swiglu},
};

}  // namespace

std::span<const KernelEntry> norm_kernels() { return kEntries; }

}  // namespace rondo::cpu
