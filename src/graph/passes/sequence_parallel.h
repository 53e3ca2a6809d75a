// Tokens on several ranks: every operator that keeps tokens apart runs on this rank's, attention becomes a parallel
// one.
#pragma once

#include "graph/pass_manager.h"
#include "parallel/token_layout.h"

namespace rondo {

/// Rewrites a graph into one rank's. Inputs and outputs keep their shapes: this rank takes its tokens out of each input
/// that leads to attention's queries or to convolutions, and the outputs are gathered. What mixes tokens in a way that
/// is not known is computed whole, on every rank, and said in the result.
PassResult parallelize_sequence(Graph& graph, const SequenceParallel& how);

}  // namespace rondo
