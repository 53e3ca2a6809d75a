// Accelerations are passes over a graph. Each can be switched off, alone.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "graph/pass_context.h"

namespace rondo {

/// What a pass did, for the report.
struct PassResult {
  std::string name;
  int nodes_matched = 0;
  int nodes_removed = 0;
  /// Of the arena, by what the pass did; negative where it takes more.
  std::int64_t bytes_saved = 0;
  /// Places that look like the pattern and are not, with the reason.
  std::vector<std::string> near_misses = {};

  /// `before` nodes became `after`.
  void matched(int before, int after) {
    nodes_matched += before;
    nodes_removed += before - after;
  }
  void miss(const Graph& graph, ValueId value, std::string_view reason);
  /// "fuse-norm-rope: 8 nodes matched, 4 removed, 1.5 kB saved"
  std::string to_string() const;
};

/// In this order.
enum class PassStage : std::uint8_t { attention, parallelism, quantization, compile };

struct Pass {
  std::string_view name;
  PassStage stage;
  std::string_view what;
  /// Whether the context asks for it; null in the compile stage, about which PassSelection decides.
  bool (*applies)(const PassContext& context);
  PassResult (*run)(Graph& graph, const PassContext& context);
};

/// All passes of all stages, in the order in which they run.
const std::vector<Pass>& all_passes();

/// Which passes of the compile stage to run: all but `without`, or exactly `only` when that is set.
struct PassSelection {
  std::vector<std::string> without;
  std::vector<std::string> only;
  bool only_is_set = false;

  /// Throws InvalidArgument for a name that is no pass of that stage, listing those that are.
  void check() const;
  bool contains(std::string_view name) const;
  /// "no-op-removal,common-subexpressions": part of a plan's key.
  std::string to_string() const;
};

/// Runs every pass that the context asks for and, of the compile stage, that is selected; in their own order, whatever
/// the order of the selection.
std::vector<PassResult> run_passes(Graph& graph, const PassSelection& selection, const PassContext& context);

}  // namespace rondo
