// Flags that share work among ranks, and the world that mpirun made.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "rondo/text_to_image.h"

namespace rondo::cli {

/// This process's rank and how many mpirun started; 0 of 1 without it. Throws UsageError for what is no number.
struct LaunchedRank {
  int rank = 0;
  int size = 1;
};
LaunchedRank launched_rank();
/// "rank 2: " in a process that mpirun started, else empty: what messages start with.
std::string rank_prefix();

class ParallelFlags {
 public:
  void add_to(CLI::App& app);
  /// Sets the degrees, and joins the ranks that mpirun started, if it did. Throws UsageError.
  void apply(PipelineOptions& options) const;

 private:
  std::optional<std::string> ulysses_degree_;
  std::optional<std::string> ring_degree_;
  std::optional<std::string> rank_timeout_;
  std::optional<std::string> text_;
  std::optional<std::string> ring_wire_;
  bool cfg_parallel_ = false;
  bool data_parallel_ = false;
};

}  // namespace rondo::cli
