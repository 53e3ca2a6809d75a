#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "attention/attention_problem.h"
#include "backends/attention_backends.h"
#include "backends/cpu/peak.h"
#include "cli/bench.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/trace.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

/// The race's shapes: FLUX and Wan at several sizes, SD3 and cross-attention, CLIP.
constexpr std::array kDefaultProblems{
    "q=1x24x1024x128", "q=1x24x4608x128",        "q=1x12x3072x128", "q=1x12x3072x128 causal=1",
    "q=1x16x1024x72",  "q=1x40x1024x128 kv=512", "q=1x24x4096x64",  "q=1x2x77x64",
};

struct BenchAttentionFlags {
  std::vector<std::string> problems;
  std::optional<std::string> shapes;
  std::optional<std::string> dtype;
  std::optional<std::string> threads;
  std::optional<std::string> backend;
  std::optional<std::string> runs;
  std::optional<std::string> seed;
  bool check = false;
  bool as_json = false;
};

std::vector<AttentionProblem> collect_problems(const BenchAttentionFlags& flags) {
  std::vector<std::string> texts = flags.problems;
  if (flags.shapes) {
    std::ifstream file(*flags.shapes);
    if (!file) throw FileError(fmt::format("{}: cannot be read", *flags.shapes));
    for (std::string line; std::getline(file, line);) {
      if (!line.empty() && line[0] != '#') texts.push_back(line);
    }
  }
  if (texts.empty()) texts.assign(kDefaultProblems.begin(), kDefaultProblems.end());
  std::vector<AttentionProblem> problems;
  for (const std::string& text : texts) {
    AttentionProblem problem = parse_attention_problem(text);
    if (problem.varlen) throw UsageError("--problem: varlen is not measured here");
    if (flags.dtype) problem.dtype = parse_dtype(*flags.dtype);
    problems.push_back(problem);
  }
  return problems;
}

/// Random operands of a problem, in BSND.
struct Operands {
  Operands(const AttentionProblem& p, std::uint64_t seed) : engine(seed) {
    query = normal({p.batch, p.queries, p.heads, p.head_dim}, p.dtype);
    key = normal({p.batch, p.keys, p.key_heads, p.head_dim}, p.dtype);
    value = normal({p.batch, p.keys, p.key_heads, p.value_dim}, p.dtype);
    if (p.mask == MaskKind::additive) mask = normal({1, 1, p.queries, p.keys}, DType::f32);
    if (p.mask == MaskKind::boolean) {
      mask = Tensor::empty({1, 1, p.queries, p.keys}, DType::boolean);
      for (std::int64_t i = 0; i < mask.elements(); ++i) mask.as<bool>()[i] = engine() % 3 != 0;  // a third dropped
    }
    options.causal = p.causal;
    options.return_lse = p.lse;
  }
  Tensor normal(const Shape& shape, DType dtype) {
    Tensor tensor = Tensor::empty(shape, DType::f32);
    std::normal_distribution<float> distribution;
    std::generate_n(tensor.as<float>(), tensor.elements(), [&] { return distribution(engine); });
    return dtype == DType::f32 ? tensor : tensor.to(dtype);
  }
  std::mt19937_64 engine;
  Tensor query, key, value, mask;
  AttentionOptions options;
};

/// Largest difference from the float64 kernel, relative to the largest value of its row.
double check_against_reference(Operands& operands, const std::string& backend) {
  operands.options.backend = backend;
  const auto run = [&] {
    return attention_forward(operands.query, operands.key, operands.value, operands.mask, operands.options)
        .output.to_float32();
  };
  const Tensor actual = run();
  operands.options.backend = "reference";
  const Tensor expected = run();
  const std::int64_t width = expected.shape().back();
  double worst = 0;
  for (std::int64_t row = 0; row < expected.shape().rows(); ++row) {
    const float* a = actual.as<float>() + row * width;
    const float* e = expected.as<float>() + row * width;
    double most = 0;
    double error = 0;
    for (std::int64_t d = 0; d < width; ++d) {
      most = std::max<double>(most, std::fabs(e[d]));
      error = std::max<double>(error, std::fabs(a[d] - e[d]));
    }
    if (error > 0) worst = std::max(worst, error / std::max(most, 1e-3));
  }
  return worst;
}

double allowed_error(DType dtype) { return dtype == DType::f32 ? 1e-4 : dtype == DType::f16 ? 2e-3 : 2e-2; }

json measure(const AttentionProblem& problem, const std::string& backend, int threads, std::int64_t runs,
             std::uint64_t seed, bool check, double peak) {
  Operands operands(problem, seed);
  operands.options.threads = threads;
  operands.options.backend = backend;
  std::vector<double> times;
  const auto call = [&] {
    attention_forward(operands.query, operands.key, operands.value, operands.mask, operands.options);
  };
  for (int warm_up = 0; warm_up < 2; ++warm_up) call();
  for (std::int64_t i = 0; i < runs; ++i) {
    const Trace clock;
    call();
    times.push_back(clock.now_ms());
  }
  const Spread spread = spread_of(times);
  const double gflops = problem.flops() / spread.median * 1e-6;
  json row{{"schema_version", 1},    {"problem", to_string(problem)},
           {"kernel", backend},      {"dtype", dtype_name(problem.dtype)},
           {"threads", threads},     {"cpu_level", cpu_level_name(cpu_level())},
           {"runs", runs},           {"ms", spread.median},
           {"ms_min", spread.least}, {"ms_max", spread.most},
           {"gflops", gflops}};
  if (problem.dtype == DType::f32) row["peak_share"] = gflops / peak;
  if (check) row["error"] = check_against_reference(operands, backend);
  return row;
}

std::vector<std::string> backends_to_run(const BenchAttentionFlags& flags, const AttentionProblem& problem) {
  if (flags.backend != "all")
    return {std::string(attention_registry().select(problem, flags.backend.value_or("")).kernel->name())};
  std::vector<std::string> names;
  for (const AttentionBackendAnswer& answer : attention_registry().answers(problem)) {
    if (!answer.refusal && answer.name != "reference") names.push_back(answer.name);
  }
  return names;
}

void run_attention(const BenchAttentionFlags& flags) {
  const std::vector<AttentionProblem> problems = collect_problems(flags);
  const auto threads = static_cast<int>(bounded("--threads", flags.threads, default_threads(), 1, 1024));
  const std::int64_t runs = bounded("--runs", flags.runs, 7, 1, 100'000);
  const std::uint64_t seed = flags.seed ? parse_unsigned("--seed", *flags.seed) : 0;
  std::vector<std::pair<AttentionProblem, std::string>> work;
  for (const AttentionProblem& problem : problems) {
    for (const std::string& name : backends_to_run(flags, problem)) work.emplace_back(problem, name);
  }
  const double peak = cpu::measure_float32_peak(threads);
  if (!flags.as_json) {
    fmt::print("{} threads, CPU level {}, float32 peak {:.0f} GFLOP/s\n", threads, cpu_level_name(cpu_level()), peak);
    fmt::print("{:<52} {:<12} {:>9} {:>9} {:>9} {:>9} {:>7}{}\n", "problem", "kernel", "ms", "min", "max", "GFLOP/s",
               "peak %", flags.check ? "     error" : "");
  }
  json rows = json::array();
  bool right = true;
  for (const auto& [problem, name] : work) {
    const json row = measure(problem, name, threads, runs, seed, flags.check, peak);
    if (flags.check) right = right && row["error"].get<double>() <= allowed_error(problem.dtype);
    if (!flags.as_json) {
      const std::string share =
          row.contains("peak_share") ? fmt::format("{:.0f}", 100 * row["peak_share"].get<double>()) : "";
      const std::string error = flags.check ? fmt::format(" {:>9.1e}", row["error"].get<double>()) : "";
      fmt::print("{:<52} {:<12} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.1f} {:>7}{}\n", to_string(problem), name,
                 row["ms"].get<double>(), row["ms_min"].get<double>(), row["ms_max"].get<double>(),
                 row["gflops"].get<double>(), share, error);
    }
    rows.push_back(row);
  }
  if (flags.as_json) fmt::print("{}\n", rows.dump());
  if (!right) throw Error("attention: a result is further from float64 than its dtype allows");
}

}  // namespace

void add_bench_attention(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand("attention", "Attention kernels on random operands");
  auto flags = std::make_shared<BenchAttentionFlags>();
  command->add_option("--problem", flags->problems, "such as \"q=1x24x4608x128 kv=4608\" (may be repeated)")
      ->type_name("");
  add_value(*command, "--shapes", flags->shapes, "a file with one problem a line");
  add_value(*command, "--dtype", flags->dtype, "float32, bfloat16 or float16, for every problem");
  add_value(*command, "--threads", flags->threads,
            "threads (default: physical cores within affinity and cgroup quota)");
  add_value(*command, "--backend", flags->backend, "a kernel's name, or all (default: the one that is selected)");
  add_value(*command, "--runs", flags->runs, "timed runs after two warm-ups (default 7)");
  add_value(*command, "--seed", flags->seed, "of the operands (default 0)");
  command->add_flag("--check", flags->check, "compare with float64; fail when a result is too far off");
  command->add_flag("--json", flags->as_json, "print one JSON list");
  command->callback([flags] { run_attention(*flags); });
}

}  // namespace rondo::cli
