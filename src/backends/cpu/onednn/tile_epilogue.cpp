#include "backends/cpu/onednn/tile_epilogue.h"

#include "backends/cpu/modulation_rows.h"
#include "ops/linear.h"

namespace rondo::cpu {
namespace {

const LinearOp& op_of(const KernelRequest& request) { return static_cast<const LinearOp&>(request.op); }

}  // namespace

Refusal refuse_gated_gaps(const KernelRequest& request) {
  if (!op_of(request).gated()) return std::nullopt;
  for (const std::size_t i : {LinearOp::kGate, LinearOp::kResidual}) {
    if (!has_dense_rows(request.inputs[i].prototype)) return "takes gate and residual in dense rows only";
  }
  return std::nullopt;
}

TileEpilogue::TileEpilogue(const KernelRequest& request)
    : activation_(op_of(request).activation()), gated_(op_of(request).gated()) {
  if (request.inputs.size() > 2) bias_ = request.weights.get(request.inputs[2].weight, DType::f32);
}

TileEpilogue::Rows TileEpilogue::rows_of(const KernelArgs& args) const {
  const RowMap target(args.outputs[0]);
  if (!gated_) return {target, {}, {}};
  return {target, modulation_rows(args.inputs[LinearOp::kGate], args.outputs[0].shape()),
          RowMap(args.inputs[LinearOp::kResidual])};
}

void TileEpilogue::complete(TileSums& sums, const Rows& rows, std::int64_t column) const {
  sums.bias = bias_.defined() ? bias_.as<float>() + column : nullptr;
  sums.activation = activation_;
  sums.gate = gated_ ? &rows.gate : nullptr;
  sums.residual = gated_ ? &rows.residual : nullptr;
}

}  // namespace rondo::cpu
