#include <fmt/format.h>

#include <memory>

#include "attention/attention_problem.h"
#include "backends/attention_backends.h"
#include "backends/devices.h"
#include "backends/plugins/plugin_loader.h"
#include "cli/commands.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/device_name.h"
#include "core/threads.h"

namespace rondo::cli {
namespace {

void list_kernels() {
  fmt::print("CPU level {}\n{:<7} {:<10} {:<14} {}\n", cpu_level_name(cpu_level()), "device", "operator", "kernel",
             "what it takes, or why it is not available");
  const LoadedPlugins& plugins = loaded_plugins();  // their kernels are in the registry from here on
  for (const auto& kernel : attention_registry().kernels()) {
    const AttentionRefusal reason = kernel->unavailable();
    fmt::print("{:<7} {:<10} {:<14} {}\n", device_kind_name(kernel->device()), "attention", kernel->name(),
               reason ? fmt::format("not available: {}", *reason) : std::string(kernel->description()));
  }
  for (const PluginStatus& status : plugins.statuses()) {
    fmt::print(
        "{:<7} {:<10} {:<14} {}\n", device_kind_name(status.kind), "plug-in",
        status.reason.empty() ? "in use" : "not used",
        status.reason.empty() ? status.file.string() : fmt::format("{}: {}", status.file.string(), status.reason));
  }
  for (const DeviceInfo& info : available_devices()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const auto ring = attention_registry().ring_default(dtype, info.device);
      fmt::print("default for a ring on {} in {}: {}\n", to_string(info.device), dtype_name(dtype),
                 ring ? ring->name() : "none");
    }
  }
}

void explain(const std::string& text) {
  const AttentionProblem problem = parse_attention_problem(text);
  if (!problem.device.is_cpu()) open_device(problem.device);
  fmt::print("{}\n", to_string(problem));
  for (const AttentionBackendAnswer& answer : attention_registry().answers(problem)) {
    fmt::print("  {:<14} {}\n", answer.name, answer.refusal ? fmt::format("no: {}", *answer.refusal) : "yes");
  }
  const AttentionChoice choice = attention_tuner().choose(problem, available_threads(default_threads()));
  fmt::print("selected: {} ({})\n", choice.kernel->name(), choice.reason);
}

}  // namespace

void add_backends_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("backends", "List the attention kernels and say which one a problem gets");
  auto problem = std::make_shared<std::optional<std::string>>();
  add_value(*command, "--explain", *problem, "a problem, such as \"q=1x24x4608x128 kv=4608 dtype=bf16 mask=none\"");
  command->callback([problem] {
    if (*problem) {
      explain(**problem);
    } else {
      list_kernels();
    }
  });
}

}  // namespace rondo::cli
