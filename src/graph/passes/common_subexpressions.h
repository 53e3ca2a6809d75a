#pragma once

#include "graph/pass_manager.h"

namespace rondo {

/// Nodes with the same operator, attributes and inputs become one: a FLUX graph activates the same embedding once a
/// block.
PassResult merge_common_subexpressions(Graph& graph);

}  // namespace rondo
