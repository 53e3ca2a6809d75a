#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "attention/attention_tolerance.h"
#include "backends/attention_backends.h"
#include "backends/cpu/peak.h"
#include "cli/attention_problems.h"
#include "cli/bench.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/trace.h"
#include "functional/random_forward.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

struct BenchAttentionFlags {
  AttentionProblemFlags work;
  std::optional<std::string> backend;
  std::optional<std::string> tune;
  std::optional<std::string> runs;
  std::optional<std::string> seed;
  std::optional<std::string> spread;
  std::optional<std::string> padding;
  bool check = false;
  bool as_json = false;
};

/// One problem on one kernel.
struct Entry {
  AttentionProblem problem;
  std::string backend;
  AttentionTiling tiling;
};

struct Settings {
  int threads;
  std::int64_t runs;
  AttentionSample sample;
  std::optional<TuneMode> tune;
  bool check;
  std::string forced;  // empty: the kernel that is selected
};

AttentionDifference check(const RandomAttention& operands, const AttentionOptions& options) {
  const auto kernel = attention_registry().find(options.backend, "--backend");
  const AttentionTolerance tolerance = attention_tolerance(operands.problem.dtype, operands.problem.quantization.dtype,
                                                           kernel->rounds_weights(), operands.largest_score());
  AttentionResult result = forward(operands, options);
  result.output = result.output.to(Device{});
  if (result.lse.defined()) result.lse = result.lse.to(Device{});
  return compare_attention(result, reference_forward(operands, kernel->scales_whole_tensors()), tolerance);
}

json measure(const Entry& entry, const Settings& settings, double peak) {
  const RandomAttention drawn(entry.problem, settings.sample);
  const RandomAttention operands = on_device(drawn);
  AttentionOptions options;
  options.threads = settings.threads;
  options.tune = settings.tune;
  options.backend = settings.forced.empty() ? "" : entry.backend;
  std::vector<double> times;
  for (int warm_up = 0; warm_up < 2; ++warm_up) forward(operands, options);
  for (std::int64_t i = 0; i < settings.runs; ++i) {
    const Trace clock;
    forward(operands, options);
    times.push_back(clock.now_ms());
  }
  const Spread spread = spread_of(times);
  const double gflops = operands.flops() / spread.median * 1e-6;
  json row{{"schema_version", 1},
           {"problem", to_string(entry.problem)},
           {"kernel", entry.backend},
           {"key_block", entry.tiling.key_block},
           {"chunk", entry.tiling.chunk},
           {"dtype", dtype_name(entry.problem.dtype)},
           {"threads", settings.threads},
           {"cpu_level", cpu_level_name(cpu_level())},
           {"device", to_string(entry.problem.device)},
           {"runs", settings.runs},
           {"ms", spread.median},
           {"ms_min", spread.least},
           {"ms_max", spread.most},
           {"gflops", gflops}};
  if (peak > 0) row["peak_share"] = gflops / peak;
  if (settings.check) {
    options.backend = entry.backend;
    const AttentionDifference difference = check(drawn, options);
    row["error"] = difference.worst;
    row["failure"] = difference.failure;
  }
  return row;
}

std::vector<Entry> entries_of(const std::vector<AttentionProblem>& problems, const Settings& settings) {
  std::vector<Entry> entries;
  for (const AttentionProblem& problem : problems) {
    if (settings.forced != "all") {
      const AttentionChoice choice = attention_tuner().choose(
          problem, settings.threads, {settings.forced, AttentionOptMode::runtime, settings.tune});
      entries.push_back({problem, std::string(choice.kernel->name()), choice.tiling});
      continue;
    }
    for (const AttentionBackendAnswer& answer : attention_registry().answers(problem)) {
      if (!answer.refusal && answer.name != "reference") entries.push_back({problem, answer.name, {}});
    }
  }
  return entries;
}

void print_row(const json& row) {
  const std::string error = row.contains("error") ? fmt::format(" {:>9.1e}", row["error"].get<double>()) : "";
  const std::string share =
      row.contains("peak_share") ? fmt::format("{:.0f}", 100 * row["peak_share"].get<double>()) : "-";
  fmt::print("{:<56} {:<12} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.1f} {:>7}{}\n", row["problem"].get<std::string>(),
             row["kernel"].get<std::string>(), row["ms"].get<double>(), row["ms_min"].get<double>(),
             row["ms_max"].get<double>(), row["gflops"].get<double>(), share, error);
}

AttentionSample sample_of(const BenchAttentionFlags& flags) {
  AttentionSample sample;
  if (flags.seed) sample.seed = parse_unsigned("--seed", *flags.seed);
  if (flags.spread) sample.spread = parse_number("--spread", *flags.spread);
  sample.padding = bounded("--padding", flags.padding, 0, 0, 4096);
  return sample;
}

void run_attention(const BenchAttentionFlags& flags) {
  const std::vector<AttentionProblem> problems = flags.work.problems();
  Settings settings{flags.work.threads(), bounded("--runs", flags.runs, 7, 1, 100'000),
                    sample_of(flags),     std::nullopt,
                    flags.check,          flags.backend.value_or("")};
  if (flags.tune) settings.tune = parse_tune_mode(*flags.tune, "--tune");
  const std::vector<Entry> entries = entries_of(problems, settings);
  std::map<DType, double> peaks;
  for (const Entry& entry : entries) {
    if (entry.problem.device.is_cpu() && !peaks.contains(entry.problem.dtype))
      peaks[entry.problem.dtype] = cpu::measure_peak(entry.problem.dtype, settings.threads);
  }
  if (!flags.as_json) {
    fmt::print("{} threads, CPU level {}", settings.threads, cpu_level_name(cpu_level()));
    for (const auto& [dtype, peak] : peaks) fmt::print(", {} peak {:.0f} GFLOP/s", dtype_name(dtype), peak);
    fmt::print("\n{:<56} {:<12} {:>9} {:>9} {:>9} {:>9} {:>7}{}\n", "problem", "kernel", "ms", "min", "max", "GFLOP/s",
               "peak %", flags.check ? "     error" : "");
  }
  json rows = json::array();
  std::string failure;
  for (const Entry& entry : entries) {
    const json row = measure(entry, settings, peaks[entry.problem.dtype]);
    if (!flags.as_json) print_row(row);
    if (flags.check && failure.empty() && row["failure"] != "")
      failure = fmt::format("{}: {}: {}", entry.backend, to_string(entry.problem), row["failure"].get<std::string>());
    rows.push_back(row);
  }
  if (flags.as_json) fmt::print("{}\n", rows.dump());
  if (!failure.empty()) throw Error("attention: further from float64 than the dtype allows: " + failure);
}

}  // namespace

void add_bench_attention(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand("attention", "Attention kernels on random operands");
  auto flags = std::make_shared<BenchAttentionFlags>();
  flags->work.add_to(*command);
  add_value(*command, "--backend", flags->backend, "a kernel's name, or all (default: the one that is selected)");
  add_value(*command, "--tune", flags->tune,
            "off, cached or on: how it is selected (default: RONDO_TUNE, else cached)");
  add_value(*command, "--runs", flags->runs, "timed runs after two warm-ups (default 7)");
  add_value(*command, "--seed", flags->seed, "of the operands (default 0)");
  add_value(*command, "--spread", flags->spread, "standard deviation of query and key (default 1)");
  add_value(*command, "--padding", flags->padding, "elements between the operands' rows in memory (default 0)");
  command->add_flag("--check", flags->check, "compare with float64; fail when a result is too far off");
  command->add_flag("--json", flags->as_json, "print one JSON list");
  command->callback([flags] { run_attention(*flags); });
}

}  // namespace rondo::cli
