// Kernels that look at one element at a time: activations, sums, products, casts.
#include <array>

#include "backends/cpu/kernel_checks.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/over_rows.h"
#include "backends/cpu/simd_rows.h"
#include "backends/function_kernel.h"
#include "ops/elementwise.h"

namespace rondo::cpu {
namespace {

std::unique_ptr<Kernel> make_activation(const KernelRequest& request) {
  const ActivationKind kind = static_cast<const ActivationOp&>(request.op).kind();
  return make_kernel([kind](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(), [&](RowRange rows) { activation_rows(kind, x, y, rows); });
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
    over_rows(args, args.inputs[0].shape(), [&](RowRange rows) { binary_rows(kind, a, b, period, y, rows); });
  });
}

Refusal refuse_cast(const KernelRequest& request) {
  if (request.outputs[0].dtype() == DType::f8_e4m3) return "takes float32, bfloat16 and float16 only";
  return refuse_unless_simd_rows(request, 1);
}

std::unique_ptr<Kernel> make_cast(const KernelRequest& /*request*/) {
  return make_kernel([](const KernelArgs& args) {
    const RowMap x(args.inputs[0]);
    const RowMap y(args.outputs[0]);
    over_rows(args, args.inputs[0].shape(), [&](RowRange rows) { cast_rows(x, y, rows); });
  });
}

Refusal refuse_activation(const KernelRequest& request) { return refuse_unless_simd_rows(request, 1); }

constexpr std::array kEntries{
    KernelEntry{"activation", "simd", false, refuse_activation, make_activation},
    KernelEntry{"add", "simd", false, refuse_binary, make_binary},
    KernelEntry{"multiply", "simd", false, refuse_binary, make_binary},
    KernelEntry{"cast", "simd", false, refuse_cast, make_cast},
};

}  // namespace

std::span<const KernelEntry> row_kernels() { return kEntries; }

}  // namespace rondo::cpu
