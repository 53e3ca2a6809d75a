// The quantisation step of the flow, for attention: nodes are marked with how their operands are quantised while they
// run.
#pragma once

#include "attention/kv_cache_policy.h"
#include "graph/pass_manager.h"

namespace rondo {

/// Layers are the graph's attention nodes in their order. Those that stay native become near misses: those that the
/// policy skips, and cross-attention: another number of keys than of queries.
PassResult quantize_attention(Graph& graph, const KvCachePolicy& policy);

}  // namespace rondo
