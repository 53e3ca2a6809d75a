// Flags that say which attention problems a command works on.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "attention/attention_problem.h"
#include "cli/run_flags.h"

namespace rondo::cli {

/// --problem, --shapes, --dtype, --device, --threads.
class AttentionProblemFlags {
 public:
  void add_to(CLI::App& app);
  /// The race's shapes when none is given. Throws UsageError, FileError, InvalidArgument.
  std::vector<AttentionProblem> problems() const;
  int threads() const;

 private:
  std::vector<std::string> problems_;
  std::optional<std::string> shapes_;
  std::optional<std::string> dtype_;
  std::optional<std::string> device_;
  KvCacheFlags kv_cache_;
  std::optional<std::string> threads_;
};

}  // namespace rondo::cli
