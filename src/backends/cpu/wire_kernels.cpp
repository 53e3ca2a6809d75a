// Rows in 8 bits for the way between ranks.
#include <algorithm>
#include <array>
#include <vector>

#include "backends/cpu/kernel_checks.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/row_map.h"
#include "backends/function_kernel.h"
#include "core/float_formats.h"
#include "core/threads.h"
#include "ops/wire_rows.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kRowGrain = 64;

Refusal supports_to_wire(const KernelRequest& request) { return refuse_unless_simd_rows(request, 1); }

Refusal supports_from_wire(const KernelRequest& request) {
  if (!request.inputs[0].prototype.is_dense()) return "takes a dense input only";
  if (!is_simd_dtype(request.outputs[0].dtype())) return "gives float32, bfloat16 and float16 only";
  return std::nullopt;
}

template <typename Convert>
void widen(const std::uint16_t* from, std::vector<float>& to, const Convert& convert) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = convert(from[i]);
}

std::unique_ptr<Kernel> make_to_wire(const KernelRequest& request) {
  return make_kernel([parts = static_cast<const RowsToWireOp&>(request.op).parts()](const KernelArgs& args) {
    const Tensor& x = args.inputs[0];
    const RowMap rows(x);
    auto* const target = args.outputs[0].as<std::int8_t>();
    const std::int64_t bytes = wire_row_bytes(parts);
    parallel_ranges(args.threads, x.shape().rows(), kRowGrain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> wide(static_cast<std::size_t>(x.shape().back()));
      for (std::int64_t r = begin; r < end; ++r) {
        if (x.dtype() == DType::f32) {
          row_to_wire(parts, rows.row<const float>(r), target + r * bytes);
          continue;
        }
        const auto* source = rows.row<const std::uint16_t>(r);
        x.dtype() == DType::bf16 ? widen(source, wide, bf16_to_float) : widen(source, wide, f16_to_float);
        row_to_wire(parts, wide.data(), target + r * bytes);
      }
    });
  });
}

std::unique_ptr<Kernel> make_from_wire(const KernelRequest& request) {
  return make_kernel([parts = static_cast<const RowsFromWireOp&>(request.op).parts()](const KernelArgs& args) {
    const Tensor& y = args.outputs[0];
    const RowMap rows(y);
    const auto* const source = args.inputs[0].as<std::int8_t>();
    const std::int64_t bytes = wire_row_bytes(parts);
    parallel_ranges(args.threads, y.shape().rows(), kRowGrain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> wide(static_cast<std::size_t>(y.shape().back()));
      for (std::int64_t r = begin; r < end; ++r) {
        if (y.dtype() == DType::f32) {
          row_from_wire(parts, source + r * bytes, rows.row<float>(r));
          continue;
        }
        row_from_wire(parts, source + r * bytes, wide.data());
        std::transform(wide.begin(), wide.end(), rows.row<std::uint16_t>(r),
                       y.dtype() == DType::bf16 ? float_to_bf16 : float_to_f16);
      }
    });
  });
}

constexpr std::array kEntries{
    KernelEntry{"rows_to_wire", "rows", false, supports_to_wire, make_to_wire},
    KernelEntry{"rows_from_wire", "rows", false, supports_from_wire, make_from_wire},
};

}  // namespace

std::span<const KernelEntry> wire_kernels() { return kEntries; }

}  // namespace rondo::cpu
