// Nodes that read constants only are computed once, when the graph is compiled.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult fold_constants(Graph& graph);

}  // namespace rondo
