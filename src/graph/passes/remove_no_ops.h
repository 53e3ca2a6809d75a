// Nodes that change nothing: reshapes to the same shape, slices of the whole, casts to the same dtype, concatenations
// of one.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult remove_no_ops(Graph& graph);

}  // namespace rondo
