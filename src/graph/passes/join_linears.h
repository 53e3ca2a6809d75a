// Linear layers over the same input become one product over their weights put together; its results are cut out of it
// as views.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult join_linears(Graph& graph, const PassContext& context);

}  // namespace rondo
