// What passes share: dropping nodes while segments keep pointing at theirs.
#pragma once

#include <vector>

#include "graph/graph.h"

namespace rondo {

/// Removes the marked nodes (their outputs must no longer be read) and moves segments and producers along.
void remove_nodes(Graph& graph, const std::vector<bool>& remove);

}  // namespace rondo
