#include <fmt/format.h>

#include <memory>

#include "attention/attention_problem.h"
#include "backends/attention_backends.h"
#include "cli/commands.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/threads.h"

namespace rondo::cli {
namespace {

void list_kernels() {
  fmt::print("CPU level {}\n{:<7} {:<10} {:<14} {}\n", cpu_level_name(cpu_level()), "device", "operator", "kernel",
             "what it takes, or why it is not available");
  for (const auto& kernel : attention_registry().kernels()) {
    const AttentionRefusal reason = kernel->unavailable();
    fmt::print("{:<7} {:<10} {:<14} {}\n", "cpu", "attention", kernel->name(),
               reason ? fmt::format("not available: {}", *reason) : std::string(kernel->description()));
  }
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const auto ring = attention_registry().ring_default(dtype);
    fmt::print("default for a ring in {}: {}\n", dtype_name(dtype), ring ? ring->name() : "none");
  }
}

void explain(const std::string& text) {
  const AttentionProblem problem = parse_attention_problem(text);
  fmt::print("{}\n", to_string(problem));
  for (const AttentionBackendAnswer& answer : attention_registry().answers(problem)) {
    fmt::print("  {:<14} {}\n", answer.name, answer.refusal ? fmt::format("no: {}", *answer.refusal) : "yes");
  }
  const AttentionChoice choice = attention_tuner().choose(problem, default_threads());
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
