// A linear layer and the activation after it: the activation becomes the product's epilogue.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult fuse_linear_activations(Graph& graph);

}  // namespace rondo
