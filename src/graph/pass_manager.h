// Accelerations are passes over a graph. Each can be switched off, alone.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace rondo {

/// What a pass did, for the report.
struct PassResult {
  std::string name;
  int nodes_matched = 0;
  int nodes_removed = 0;
};

struct Pass {
  std::string_view name;
  std::string_view what;
  PassResult (*run)(Graph& graph);
};

/// All passes in the order in which they run.
const std::vector<Pass>& all_passes();

/// Which passes to run: all but `without`, or exactly `only` when that is set.
struct PassSelection {
  std::vector<std::string> without;
  std::vector<std::string> only;
  bool only_is_set = false;

  /// Throws InvalidArgument for a name that is no pass, listing those that are.
  void check() const;
  bool contains(std::string_view name) const;
  /// "no-op-removal,common-subexpressions": part of a plan's key.
  std::string to_string() const;
};

/// Runs the selected passes, in their own order whatever the order of the selection.
std::vector<PassResult> run_passes(Graph& graph, const PassSelection& selection);

}  // namespace rondo
