// What becomes of a linear layer's sums beside scales: bias, activation, gate and residual.
#pragma once

#include <optional>

#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_tiles.h"
#include "backends/kernel.h"

namespace rondo::cpu {

/// Gate and residual, where the operator has them, have to lie in dense rows.
Refusal refuse_gated_gaps(const KernelRequest& request);

class TileEpilogue {
 public:
  explicit TileEpilogue(const KernelRequest& request);

  /// A run's rows. Lives as long as the tiles that are finished with it.
  struct Rows {
    RowMap target;
    RowMap gate;
    RowMap residual;
  };
  Rows rows_of(const KernelArgs& args) const;

  /// Sets what concerns the columns from `column` on.
  void complete(TileSums& sums, const Rows& rows, std::int64_t column) const;

 private:
  std::optional<ActivationKind> activation_;
  bool gated_;
  Tensor bias_;
};

}  // namespace rondo::cpu
