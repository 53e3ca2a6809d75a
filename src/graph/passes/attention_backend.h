// The attention step of the flow: which kernel every attention node is to use.
#pragma once

#include <string>

#include "graph/graph.h"

namespace rondo {

void set_attention_backend(Graph& graph, const std::string& backend);

}  // namespace rondo
