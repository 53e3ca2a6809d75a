// The attention step of the flow: how every attention node's kernel is chosen.
#pragma once

#include "attention/attention_request.h"
#include "graph/graph.h"

namespace rondo {

/// Throws Unsupported for a kernel that the model does not name among those that it supports.
void request_attention(Graph& graph, const AttentionRequest& request);

}  // namespace rondo
