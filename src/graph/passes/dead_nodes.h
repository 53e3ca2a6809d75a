#pragma once

#include "graph/pass_manager.h"

namespace rondo {

/// Drops nodes that no output of the graph depends on.
PassResult remove_dead_nodes(Graph& graph);

}  // namespace rondo
