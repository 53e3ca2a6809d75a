#include "graph/passes/attention_selection.h"

#include <fmt/format.h>

#include <algorithm>

#include "attention/attention_op.h"
#include "rondo/error.h"

namespace rondo {

void request_attention(Graph& graph, const AttentionRequest& request) {
  const std::vector<std::string>& supported = graph.attention_kernels;
  if (!request.backend.empty() && !supported.empty() &&
      std::find(supported.begin(), supported.end(), request.backend) == supported.end()) {
    throw Unsupported(fmt::format("attention: backend '{}' is not one that this model supports; allowed are {}",
                                  request.backend, fmt::join(supported, ", ")));
  }
  for (Node& node : graph.nodes) {
    if (const auto* op = dynamic_cast<const AttentionOp*>(node.op.get())) node.op = op->with(request);
  }
}

}  // namespace rondo
