// LayerNorm, then * (1 + scale) + shift: one operator that goes over memory once.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult fuse_adaptive_norms(Graph& graph);

}  // namespace rondo
