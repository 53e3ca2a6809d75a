// Text and image joined, attention beside the MLP: whatever computes the parts of a concatenation writes them where
// they belong.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult write_concats_in_place(Graph& graph);

}  // namespace rondo
