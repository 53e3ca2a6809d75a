#include "graph/pass_manager.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "core/text.h"
#include "graph/buffer_layout.h"
#include "graph/passes/common_subexpressions.h"
#include "graph/passes/concat_in_place.h"
#include "graph/passes/dead_nodes.h"
#include "graph/passes/fold_constants.h"
#include "graph/passes/fuse_adaptive_norm.h"
#include "graph/passes/fuse_gated_residual.h"
#include "graph/passes/fuse_linear_activation.h"
#include "graph/passes/fuse_norm_rope.h"
#include "graph/passes/fuse_swiglu.h"
#include "graph/passes/join_linears.h"
#include "graph/passes/remove_no_ops.h"
#include "rondo/error.h"

namespace rondo {

const std::vector<Pass>& all_passes() {
  static const std::vector<Pass> passes{
      {"no-ops", "nodes that change nothing are dropped", remove_no_ops},
      {"fold-constants", "nodes that read constants only are computed once", fold_constants},
      {"common-subexpressions", "nodes that compute the same from the same become one", merge_common_subexpressions},
      {"dead-nodes", "nodes whose results nobody reads are dropped", remove_dead_nodes},
      {"fuse-norm-rope", "RMSNorm of query and key, then RoPE, become one pass over memory", fuse_norm_ropes},
      {"fuse-adaptive-norm", "LayerNorm, then * (1 + scale) + shift, become one pass over memory", fuse_adaptive_norms},
      {"fuse-swiglu", "hidden * silu(gate) becomes one pass over memory", fuse_swiglus},
      {"fuse-linear-activation", "an activation becomes the epilogue of the product before it",
       fuse_linear_activations},
      {"fuse-gated-residual", "residual + gate * a product becomes the product's epilogue", fuse_gated_residuals},
      {"join-linears", "products over the same input become one", join_linears},
      {"concat-in-place", "parts of a concatenation are written where they belong", write_concats_in_place},
  };
  return passes;
}

void PassResult::miss(const Graph& graph, ValueId value, std::string_view reason) {
  const NodeId producer = graph.values[static_cast<std::size_t>(value)].producer;
  const std::string_view op =
      producer == kNoNode ? "no node" : graph.nodes[static_cast<std::size_t>(producer)].op->name();
  near_misses.push_back(fmt::format("%{} (from {}): {}", value, op, reason));
}

std::string PassResult::to_string() const {
  const std::string bytes = human_bytes(static_cast<std::uint64_t>(std::abs(bytes_saved)));
  return fmt::format("{}: {} nodes matched, {} removed, {} {}", name, nodes_matched, nodes_removed, bytes,
                     bytes_saved < 0 ? "more" : "saved");
}

void PassSelection::check() const {
  for (const auto* names : {&without, &only}) {
    for (const std::string& name : *names) {
      std::vector<std::string_view> known;
      for (const Pass& pass : all_passes()) known.push_back(pass.name);
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        throw InvalidArgument(fmt::format("pass: '{}' is not known; known are {}", name, fmt::join(known, ", ")));
      }
    }
  }
}

bool PassSelection::contains(std::string_view name) const {
  const auto listed = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  return !listed(without) && (!only_is_set || listed(only));
}

std::string PassSelection::to_string() const {
  std::vector<std::string_view> names;
  for (const Pass& pass : all_passes()) {
    if (contains(pass.name)) names.push_back(pass.name);
  }
  return fmt::format("{}", fmt::join(names, ","));
}

std::vector<PassResult> run_passes(Graph& graph, const PassSelection& selection) {
  std::vector<PassResult> results;
  for (const Pass& pass : all_passes()) {
    if (!selection.contains(pass.name)) continue;
    const auto before = static_cast<std::int64_t>(lay_out_buffers(graph).memory.arena_bytes);
    results.push_back(pass.run(graph));
    results.back().name = pass.name;
    results.back().bytes_saved = before - static_cast<std::int64_t>(lay_out_buffers(graph).memory.arena_bytes);
  }
  return results;
}

}  // namespace rondo
