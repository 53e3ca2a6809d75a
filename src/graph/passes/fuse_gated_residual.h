// A linear layer, then residual + gate * its result: gate and residual become the product's epilogue.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult fuse_gated_residuals(Graph& graph);

}  // namespace rondo
