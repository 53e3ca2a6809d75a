// The quantisation step of the flow: linear layers are marked with how they are quantised. Their weights are quantised
// when a plan packs them.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

/// As the context's policy says. The layers that are left as they are become near misses, with the reason.
PassResult quantize_linears(Graph& graph, const PassContext& context);

}  // namespace rondo
