// `rondo config show`: every setting that is in force, and where it comes from.
#include <fmt/format.h>

#include <memory>

#include "backends/compute_dtype.h"
#include "cli/commands.h"
#include "cli/run_flags.h"
#include "core/env.h"
#include "core/threads.h"
#include "pipelines/kv_cache_options.h"
#include "pipelines/plan_options.h"
#include "quantization/quantization_policy.h"

namespace rondo::cli {
namespace {

/// What holds when nobody says anything.
std::string default_of(const std::string& flag, const PlanOptions& plan) {
  const std::map<std::string, std::string> defaults{
      {"device", fmt::format("auto ({})", to_string(find_device("auto")))},
      {"allow-cpu-fallback", "false"},
      {"layerwise-offload", "auto"},
      {"cuda-graph", "auto"},
      {"dtype", fmt::format("auto ({})", dtype_name(resolve_compute_dtype(std::nullopt, plan.target.device.get())))},
      {"threads", std::to_string(default_threads())},
      {"attention-backend", "the best"},
      {"tune", "cached"},
      {"cfg-fusion", "auto"},
      {"vae-tiling", "auto"},
      {"lanes", "auto"},
      {"memory-limit", "what the system has"},
      {"weight-cache", "none"},
      {"weight-cache-limit", "20GB"},
      {"quantize", "as the checkpoint is stored"},
      {"quantize-exclude", fmt::format("{}", fmt::join(default_quantization_exclusions(), ","))},
      {"quantize-rule", "none"},
      {"quantize-group", "64"},
      {"quantize-rotation", "none"},
      {"quantize-skip-steps", "none"},
      {"kv-cache-dtype", "as the model says, else auto"},
      {"quantize-attention-rotation", "hadamard"},
      {"quantize-attention-smooth-k", "auto"},
      {"kv-cache-skip-steps", "none"},
      {"kv-cache-skip-layers", "none"},
      {"kv-cache-fallback", "error"},
      {"compile", "true"},
      {"passes", "all"},
      {"no-pass", "none"},
  };
  return defaults.at(flag);
}

/// The environment variable that stands in for a flag.
std::string variable_of(const std::string& flag) {
  if (flag == "device") return "RONDO_DEVICE";
  if (flag == "threads") return "RONDO_THREADS";
  if (flag == "attention-backend") return "RONDO_ATTENTION_BACKEND";
  if (flag == "tune") return "RONDO_TUNE";
  if (flag == "compile") return "RONDO_DISABLE_COMPILE";
  if (flag == "weight-cache") return "RONDO_WEIGHT_CACHE";
  return "";
}

void show(const CLI::App& command, const RunFlags& flags, const std::map<std::string, std::string>& from_file) {
  // Refuses what no run would take.
  const PipelineOptions options = flags.options();
  const PlanOptions plan = plan_options(options);
  kv_cache_policy(options.kv_cache);
  for (const CLI::Option* option : command.get_options()) {
    const std::string& flag = option->get_lnames().front();
    if (flag == "help" || flag == "config") continue;
    std::string value;
    std::string source = "default";
    const auto variable = variable_of(flag).empty() ? std::nullopt : env_value(variable_of(flag).c_str());
    if (option->count() > 0) {
      value = fmt::format("{}", fmt::join(option->results(), ","));
      const auto file = from_file.find(flag);
      source = file == from_file.end() ? "flag" : file->second;
    } else if (variable) {
      value = flag == "compile" ? (*variable == "1" ? "false" : "true") : *variable;
      source = variable_of(flag);
    } else {
      value = default_of(flag, plan);
    }
    fmt::print("{:<28} {:<36} {}\n", flag, value, source);
  }
}

}  // namespace

void add_config_command(CLI::App& app, const std::map<std::string, std::string>& from_file) {
  CLI::App* command = app.add_subcommand("config", "Settings");
  command->require_subcommand(1);
  CLI::App* shown = command->add_subcommand("show", "Every setting in force and where it comes from");
  auto flags = std::make_shared<RunFlags>();
  flags->add_to(*shown);
  shown->callback([flags, shown, &from_file] { show(*shown, *flags, from_file); });
}

}  // namespace rondo::cli
