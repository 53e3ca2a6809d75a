// Pictures whose rows lie on several ranks: convolutions fetch the rows beside their own, norms join the ranks'
// moments. A row is to a picture [B, H, W, C] what a token is to a sequence.
#pragma once

#include <optional>

#include "graph/passes/collectives.h"
#include "ops/conv2d.h"
#include "ops/norms.h"

namespace rondo {

struct SplitPicture {
  ValueId id;
  TokenLayout rows;
};

class ParallelPictures {
 public:
  explicit ParallelPictures(CollectiveBuilder& collectives)
      : c_(collectives), b_(collectives.builder()), how_(collectives.how()) {}

  /// `parameters` are weight and bias. Nothing for rows that lie in more than one run.
  std::optional<SplitPicture> convolve(const Conv2dOp& op, const SplitPicture& x, std::span<const ValueId> parameters);
  std::optional<SplitPicture> normalize(const GroupNormOp& op, const SplitPicture& x, ValueId weight, ValueId bias);
  std::optional<SplitPicture> upsample(const SplitPicture& x);

 private:
  CollectiveBuilder& c_;
  GraphBuilder& b_;
  const SequenceParallel& how_;
};

}  // namespace rondo
