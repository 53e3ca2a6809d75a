// Rows in 8 bits for the way between ranks.
#include <array>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/wire_rows.h"

namespace rondo::cuda {
namespace {

Refusal refuse_parts(const std::vector<std::int64_t>& parts) {
  if (parts.size() > static_cast<std::size_t>(WireParts::kMost)) return "takes rows of up to four parts only";
  return std::nullopt;
}

WireParts wire_parts(const std::vector<std::int64_t>& parts) {
  WireParts result;
  for (const std::int64_t width : parts) result.width[static_cast<std::size_t>(result.count++)] = width;
  return result;
}

Refusal supports_to_wire(const KernelRequest& request) {
  if (auto refusal = refuse_parts(static_cast<const RowsToWireOp&>(request.op).parts())) return refusal;
  if (!request.outputs[0].is_dense()) return "gives dense rows only";
  return refuse_unless_rows(request, 1);
}

Refusal supports_from_wire(const KernelRequest& request) {
  if (auto refusal = refuse_parts(static_cast<const RowsFromWireOp&>(request.op).parts())) return refusal;
  if (!request.inputs[0].prototype.is_dense()) return "takes dense rows only";
  if (request.outputs[0].shape().rank() > RowView::kAxes + 1) return "takes up to five axes only";
  return std::nullopt;
}

std::unique_ptr<Kernel> make_to_wire(const KernelRequest& request) {
  return make_cuda_kernel([parts = wire_parts(static_cast<const RowsToWireOp&>(request.op).parts())](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    rows_to_wire(rows_of(inputs[0]), parts, outputs[0].as<std::int8_t>(), run.handle());
  });
}

std::unique_ptr<Kernel> make_from_wire(const KernelRequest& request) {
  return make_cuda_kernel([parts = wire_parts(static_cast<const RowsFromWireOp&>(request.op).parts())](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    rows_from_wire(inputs[0].as<std::int8_t>(), parts, rows_of(outputs[0]), run.handle());
  });
}

constexpr std::array kEntries{
    KernelEntry{"rows_to_wire", "rows", false, supports_to_wire, make_to_wire},
    KernelEntry{"rows_from_wire", "rows", false, supports_from_wire, make_from_wire},
};

}  // namespace

std::span<const KernelEntry> wire_kernels() { return kEntries; }

}  // namespace rondo::cuda
