#include "graph/pass_manager.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "core/text.h"
#include "graph/buffer_layout.h"
#include "graph/passes/attention_selection.h"
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
#include "graph/passes/quantize_attention.h"
#include "graph/passes/quantize_linears.h"
#include "graph/passes/remove_no_ops.h"
#include "graph/passes/sequence_parallel.h"
#include "rondo/error.h"

namespace rondo {

namespace {

/// A pass that needs no context.
template <PassResult (*Run)(Graph& graph)>
PassResult plain(Graph& graph, const PassContext& /*context*/) {
  return Run(graph);
}

/// The passes of the compile stage.
std::vector<std::string_view> selectable() {
  std::vector<std::string_view> names;
  for (const Pass& pass : all_passes()) {
    if (pass.stage == PassStage::compile) names.push_back(pass.name);
  }
  return names;
}

}  // namespace

const std::vector<Pass>& all_passes() {
  using enum PassStage;
  static const std::vector<Pass> passes{
      {"request-attention", attention, "attention nodes are told which kernel is asked for",
       [](const PassContext& c) { return c.attention != AttentionRequest{}; },
       [](Graph& graph, const PassContext& c) { return request_attention(graph, c.attention); }},
      {"quantize-attention", attention, "attention nodes are marked with how their operands are quantised",
       [](const PassContext& c) { return c.kv_cache.active(); },
       [](Graph& graph, const PassContext& c) { return quantize_attention(graph, c.kv_cache); }},
      {"sequence-parallel", parallelism, "the graph becomes one rank's, with its tokens",
       [](const PassContext& c) { return c.parallel.active(); },
       [](Graph& graph, const PassContext& c) { return parallelize_sequence(graph, c.parallel); }},
      {"quantize-linears", quantization, "linear layers are marked with how their weights and inputs are quantised",
       [](const PassContext& c) { return c.quantization.active(); }, quantize_linears},
      {"no-ops", compile, "nodes that change nothing are dropped", nullptr, plain<remove_no_ops>},
      {"fold-constants", compile, "nodes that read constants only are computed once", nullptr, plain<fold_constants>},
      {"common-subexpressions", compile, "nodes that compute the same from the same become one", nullptr,
       plain<merge_common_subexpressions>},
      {"dead-nodes", compile, "nodes whose results nobody reads are dropped", nullptr, plain<remove_dead_nodes>},
      {"fuse-norm-rope", compile, "RMSNorm of query and key, then RoPE, become one pass over memory", nullptr,
       plain<fuse_norm_ropes>},
      {"fuse-adaptive-norm", compile, "LayerNorm, then * (1 + scale) + shift, become one pass over memory", nullptr,
       plain<fuse_adaptive_norms>},
      {"fuse-swiglu", compile, "hidden * silu(gate) becomes one pass over memory", nullptr, plain<fuse_swiglus>},
      {"fuse-linear-activation", compile, "an activation becomes the epilogue of the product before it", nullptr,
       plain<fuse_linear_activations>},
      {"fuse-gated-residual", compile, "residual + gate * a product becomes the product's epilogue", nullptr,
       plain<fuse_gated_residuals>},
      {"join-linears", compile, "products over the same input become one", nullptr, join_linears},
      {"concat-in-place", compile, "parts of a concatenation are written where they belong", nullptr,
       plain<write_concats_in_place>},
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
  const std::vector<std::string_view> known = selectable();
  for (const auto* names : {&without, &only}) {
    for (const std::string& name : *names) {
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
  std::vector<std::string_view> names = selectable();
  std::erase_if(names, [&](std::string_view name) { return !contains(name); });
  return fmt::format("{}", fmt::join(names, ","));
}

std::vector<PassResult> run_passes(Graph& graph, const PassSelection& selection, const PassContext& context) {
  std::vector<PassResult> results;
  for (const Pass& pass : all_passes()) {
    const bool compiles = pass.stage == PassStage::compile;
    if (compiles ? !selection.contains(pass.name) : !pass.applies(context)) continue;
    // What the other stages do to the arena is no saving: they change what is computed.
    const auto before = compiles ? static_cast<std::int64_t>(lay_out_buffers(graph).memory.arena_bytes) : 0;
    results.push_back(pass.run(graph, context));
    results.back().name = pass.name;
    if (compiles)
      results.back().bytes_saved = before - static_cast<std::int64_t>(lay_out_buffers(graph).memory.arena_bytes);
  }
  return results;
}

}  // namespace rondo
