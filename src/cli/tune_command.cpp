// `rondo tune` measures ahead; `rondo cache` shows and removes what was measured.
#include <fmt/format.h>

#include <memory>

#include "backends/attention_backends.h"
#include "backends/packed_cache.h"
#include "cli/attention_problems.h"
#include "cli/commands.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/env.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

void tune_attention(const AttentionProblemFlags& flags) {
  const std::vector<AttentionProblem> problems = flags.problems();
  const int threads = flags.threads();
  fmt::print("{} threads, CPU level {}\n", threads, cpu_level_name(cpu_level()));
  for (const AttentionProblem& problem : problems) {
    const TunedAttention tuned = attention_tuner().tune(problem, threads);
    fmt::print("{:<56} {:.3f} ms with {}{} (untuned {:.3f} ms)\n", to_string(problem), tuned.ms, tuned.kernel,
               to_string(tuned.tiling), tuned.default_ms);
  }
  const auto path = tuning_file_path();
  fmt::print("kept in {}\n", path ? path->string() : "memory only: there is no cache folder");
}

/// The folder of packed weights that the flag or the environment names.
std::optional<std::string> weight_cache(const std::optional<std::string>& flag) {
  return flag && !flag->empty() ? flag : env_value("RONDO_WEIGHT_CACHE");
}

void list_cache(const std::optional<std::string>& weights) {
  if (const auto folder = weight_cache(weights)) {
    const PackedCacheUse use = packed_cache_use(*folder);
    fmt::print("{}: {} packed weights, {}\n", *folder, use.files, human_bytes(use.bytes));
  }
  const auto path = tuning_file_path();
  if (!path) {
    fmt::print("there is no cache folder: RONDO_CACHE_DIR, XDG_CACHE_HOME and HOME are not set\n");
    return;
  }
  const TunedAttentions entries = read_tuning_file();
  fmt::print("{}: {} measured attention problems\n", path->string(), entries.size());
  for (const auto& [key, tuned] : entries)
    fmt::print("{}: {}{}, {:.3f} ms (untuned {:.3f} ms)\n", key, tuned.kernel, to_string(tuned.tiling), tuned.ms,
               tuned.default_ms);
}

void verify_cache(const std::optional<std::string>& weights) {
  const auto folder = weight_cache(weights);
  if (!folder) throw UsageError("--weight-cache: is missing, and RONDO_WEIGHT_CACHE is not set");
  const PackedCacheUse use = packed_cache_use(*folder);
  const std::uint64_t damaged = verify_packed_cache(*folder, [](const std::string& what) { fmt::print("{}\n", what); });
  fmt::print("{}: {} packed weights, {}: {} damaged\n", *folder, use.files, human_bytes(use.bytes), damaged);
  if (damaged > 0) throw Error(fmt::format("cache: {} of {} packed weights were damaged", damaged, use.files));
}

void clear_cache(const std::optional<std::string>& weights) {
  if (const auto folder = weight_cache(weights)) {
    const PackedCacheUse use = clear_packed_cache(*folder);
    fmt::print("removed {} packed weights, {}\n", use.files, human_bytes(use.bytes));
  }
  const std::size_t count = clear_tuning_file();
  fmt::print("removed {} measured attention problems\n", count);
}

}  // namespace

void add_tune_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tune", "Measure ahead which kernel is the fastest");
  command->require_subcommand(1);
  CLI::App* attention = command->add_subcommand("attention", "Attention kernels and their tilings, for chosen shapes");
  auto flags = std::make_shared<AttentionProblemFlags>();
  flags->add_to(*attention);
  attention->callback([flags] { tune_attention(*flags); });
}

void add_cache_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("cache", "What is kept on this machine: measurements, packed weights");
  command->require_subcommand(1);
  auto weights = std::make_shared<std::optional<std::string>>();
  const auto add_verb = [&](const char* name, const char* help, void (*run)(const std::optional<std::string>&)) {
    CLI::App* verb = command->add_subcommand(name, help);
    add_value(*verb, "--weight-cache", *weights, "folder of packed weights (default: RONDO_WEIGHT_CACHE)");
    verb->callback([weights, run] { run(*weights); });
  };
  add_verb("list", "Print it", list_cache);
  add_verb("verify", "Read every packed weight whole and remove those that are damaged", verify_cache);
  add_verb("clear", "Remove it", clear_cache);
}

}  // namespace rondo::cli
