// The attention step of the flow: how every attention node's kernel is chosen.
#pragma once

#include "attention/attention_request.h"
#include "graph/pass_manager.h"

namespace rondo {

/// Whether the kernel can is the kernel's to say, when a plan chooses it.
PassResult request_attention(Graph& graph, const AttentionRequest& request);

}  // namespace rondo
