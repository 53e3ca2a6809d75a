// RMSNorm of query and key, then RoPE: one operator; also where text and image are normed apart and joined between the
// two.
#pragma once

#include "graph/pass_manager.h"

namespace rondo {

PassResult fuse_norm_ropes(Graph& graph);

}  // namespace rondo
