// hidden * silu(gate), both cut out of one value side by side: one operator.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult fuse_swiglus(Graph& graph);

}  // namespace rondo
