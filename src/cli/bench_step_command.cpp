#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "backends/compute_dtype.h"
#include "backends/cpu/peak.h"
#include "backends/device_work.h"
#include "cli/bench.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/parallel_flags.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/text.h"
#include "core/trace.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/flux_presets.h"
#include "parallel/agreement.h"
#include "parallel/world.h"
#include "pipelines/flux_components.h"
#include "pipelines/kv_cache_options.h"
#include "pipelines/node_events.h"
#include "pipelines/plan_options.h"
#include "rondo/version.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

struct BenchStepFlags {
  std::optional<std::string> preset;
  std::optional<std::string> layers;
  std::optional<std::string> width;
  std::optional<std::string> height;
  std::optional<std::string> text_tokens;
  std::optional<std::string> branches;
  std::optional<std::string> runs;
  bool as_json = false;
  RunFlags run;
  ParallelFlags parallel;
};

/// Products and attention of the blocks, counted as the field's scripts do: norms, embeddings and the head are left
/// out.
double block_flops(const FluxTransformerConfig& c, const FluxTransformerShape& shape) {
  const auto d = static_cast<double>(c.inner_dim());
  const auto tokens = static_cast<double>(shape.text_tokens + shape.image_tokens());
  const double each_linear = 2.0 * tokens * d * d * 12.0;  // 4 of attention, 8 of the MLP, in either kind of block
  const double each_attention = 4.0 * d * tokens * tokens;
  return static_cast<double>(c.layers()) * (each_linear + each_attention);
}

struct OperatorTime {
  double ms = 0;
  double flops = 0;
  double bytes = 0;
  int count = 0;
};

/// GB/s, read and written, at which the device copies what its caches do not hold; of the CPU, at which it reads.
double memory_bandwidth(const std::shared_ptr<const ExecutionDevice>& device, int threads) {
  if (device == nullptr) return cpu::measure_read_bandwidth(threads);
  constexpr std::uint64_t kLeast = std::uint64_t{4} << 20;
  constexpr std::uint64_t kMost = std::uint64_t{512} << 20;
  constexpr double kEnoughMs = 20;
  const DeviceWork work(device);
  const auto copy_ms = [&](std::uint64_t bytes, int turns) {
    const Tensor from = device->empty({static_cast<std::int64_t>(bytes / sizeof(float))}, DType::f32);
    const Tensor to = device->empty(from.shape(), DType::f32);
    const Trace clock;
    for (int turn = 0; turn < turns; ++turn) device->copy(from, to, work.stream());
    work.stream().synchronize();
    return clock.now_ms() / turns;
  };
  std::uint64_t bytes = kLeast;
  while (copy_ms(bytes, 1) < kEnoughMs && 2 * bytes <= std::min(kMost, device->available_memory() / 8)) bytes *= 2;
  return 2 * static_cast<double>(bytes) / copy_ms(bytes, bytes > kLeast ? 10 : 1) * 1e-6;
}

void run_step(const BenchStepFlags& flags) {
  const std::string preset = flags.preset.value_or("flux.1-dev");
  FluxTransformerConfig config = find_flux_preset(preset, "--preset");
  if (flags.layers) std::tie(config.num_layers, config.num_single_layers) = parse_layers(*flags.layers);
  constexpr std::int64_t kPixelsPerToken = 16;
  FluxTransformerShape shape;
  const std::int64_t width = bounded("--width", flags.width, 512, kPixelsPerToken, 16384);
  const std::int64_t height = bounded("--height", flags.height, 512, kPixelsPerToken, 16384);
  if (width % kPixelsPerToken != 0 || height % kPixelsPerToken != 0) {
    throw UsageError(fmt::format("--width, --height: {} x {} is given; allowed are multiples of {}", width, height,
                                 kPixelsPerToken));
  }
  shape.rows = height / kPixelsPerToken;
  shape.columns = width / kPixelsPerToken;
  shape.text_tokens = bounded("--text-tokens", flags.text_tokens, 512, 1, 4096);
  shape.batch = bounded("--branches", flags.branches, 1, 1, 8);
  shape.shares_latents = shape.batch > 1;
  const std::int64_t runs = bounded("--runs", flags.runs, 5, 1, 1000);
  PipelineOptions options = flags.run.options();
  flags.parallel.apply(options);
  if (options.parallel.cfg_parallel || options.parallel.data_parallel)
    throw UsageError("--cfg-parallel, --data-parallel: one step is measured; allowed are Ulysses and ring degrees");
  const ComputeOptions compute = compute_options(options);
  shape.dtype = compute.dtype;
  if (options.world != nullptr) {
    const std::array same{
        AgreedValue{"version", fmt::format("{} ({})", version(), commit())},
        AgreedValue{"step", fmt::format("{} {},{} {} x {} {} {} {} runs {}", preset, config.num_layers,
                                        config.num_single_layers, width, height, shape.text_tokens, shape.batch, runs,
                                        dtype_name(shape.dtype))},
        AgreedValue{"options", fmt::format("{} {} {} {} {}", compute.plan.parallel.degrees.to_string(),
                                           compute.plan.passes.to_string(), compute.plan.attention.backend,
                                           compute.plan.quantization.to_string(), to_text(options.kv_cache))}};
    require_agreement(options.world->implementation().communicator(), same);
  }
  PlanOptions plan_options = compute.plan;
  refuse_without_dtype(options.kv_cache, {});
  plan_options.kv_cache = settle_attention(config, shape.dtype, plan_options, options.kv_cache);

  const auto build = [&] { return build_flux_transformer(config, shape, nullptr); };
  Model model(std::make_shared<const RandomWeights>(build()));
  Session session(model.plan("bench", plan_options, build));
  const Plan& plan = session.plan();
  for (const NamedValue& input : plan.graph().inputs) {
    Tensor target = session.input(input.name);
    std::fill_n(target.as<std::byte>(), target.bytes(), std::byte{0});
  }
  RunContext context;
  context.cancel = &cancel_on_interrupt();
  if (plan_options.parallel.active()) context.sequence = &compute.groups->sequence();
  for (int warm_up = 0; warm_up < 2; ++warm_up) session.run(context);
  std::vector<double> times;
  std::vector<double> step_ms;
  // On a device each node is waited for where it is timed: that is a run of its own, with several turns a wait.
  constexpr int kTurns = 20;
  const bool times_nodes_apart = plan.device() != nullptr;
  if (!times_nodes_apart) context.step_ms = &step_ms;
  for (std::int64_t i = 0; i < runs; ++i) {
    const Trace clock;
    session.run(context);
    times.push_back(clock.now_ms());
  }
  context.step_ms = &step_ms;
  // Messages go, and layers come, once a run.
  const bool repeats_nodes = times_nodes_apart && options.world == nullptr && plan.offloaded() == nullptr;
  if (repeats_nodes) context.repeats = kTurns;
  for (std::int64_t i = 0; times_nodes_apart && i < (repeats_nodes ? 1 : runs); ++i) session.run(context);
  const auto timed_runs = static_cast<double>(repeats_nodes ? kTurns : runs);

  if (options.world != nullptr) options.world->finish();
  if (options.world != nullptr && options.world->rank() != 0) return;

  std::map<std::string, OperatorTime> operators;
  double total_ms = 0;
  for (std::size_t i = 0; i < step_ms.size(); ++i) {
    const Node& node = plan.node(plan.steps()[i]);
    OperatorTime& entry = operators[fmt::format("{} ({})", node.op->name(), plan.steps()[i].kernel_name)];
    entry.ms += step_ms[i] / timed_runs;
    entry.flops += node.op->flops(plan.graph().input_types(node));
    entry.bytes += node_bytes(plan.graph(), node);
    ++entry.count;
    total_ms += step_ms[i] / timed_runs;
  }
  const auto time_of = [&](std::string_view op) {
    double ms = 0;
    for (const auto& [name, entry] : operators) ms += name.starts_with(op) ? entry.ms : 0;
    return ms;
  };
  const Spread spread = spread_of(times);
  const double ms = spread.median;
  const auto rate_of = [&](std::string_view op) {
    double flops = 0;
    for (const auto& [name, entry] : operators) flops += name.starts_with(op) ? entry.flops : 0;
    return flops / time_of(op) * 1e-6;
  };
  const double linear_ms = time_of("linear ");
  const double attention_ms = time_of("attention ");
  const double memory_gbps = memory_bandwidth(plan.shared_device(), plan.threads());
  const double gflops = static_cast<double>(shape.batch) * block_flops(config, shape) / ms * 1e-6;

  if (flags.as_json) {
    json each = json::array();
    for (const auto& [name, entry] : operators) {
      each.push_back({{"operator", name},
                      {"nodes", entry.count},
                      {"ms", entry.ms},
                      {"gflops", entry.flops / entry.ms * 1e-6},
                      {"gbps", entry.bytes / entry.ms * 1e-6}});
    }
    const json result{{"schema_version", 1},
                      {"preset", preset},
                      {"layers", {config.num_layers, config.num_single_layers}},
                      {"dtype", dtype_name(shape.dtype)},
                      {"threads", plan_options.target.threads},
                      {"ulysses_degree", plan_options.parallel.degrees.ulysses},
                      {"ring_degree", plan_options.parallel.degrees.ring},
                      {"branches", shape.batch},
                      {"tokens", shape.text_tokens + shape.image_tokens()},
                      {"cpu_level", cpu_level_name(cpu_level())},
                      {"device", to_string(plan_options.target.where())},
                      {"runs", runs},
                      {"ms", ms},
                      {"ms_min", spread.least},
                      {"ms_max", spread.most},
                      {"ms_nodes", total_ms},
                      {"ms_linear", linear_ms},
                      {"ms_attention", attention_ms},
                      {"ms_other", total_ms - linear_ms - attention_ms},
                      {"gflops", gflops},
                      {"gflops_linear", rate_of("linear ")},
                      {"gflops_attention", rate_of("attention ")},
                      {"gbps_memory", memory_gbps},
                      {"operators", each},
                      {"arena_bytes", plan.arena_bytes()}};
    fmt::print("{}\n", result.dump());
    return;
  }
  fmt::print("{} layers {},{}: {} tokens, {}, {}\n", preset, config.num_layers, config.num_single_layers,
             shape.text_tokens + shape.image_tokens(), dtype_name(shape.dtype),
             plan.device() == nullptr
                 ? fmt::format("{} threads, CPU level {}", plan_options.target.threads, cpu_level_name(cpu_level()))
                 : to_string(plan.device()->device()));
  fmt::print("step: median {:.1f} ms of {} (min {:.1f}, max {:.1f}), {:.1f} GFLOP/s\n", ms, runs, spread.least,
             spread.most, gflops);
  std::vector<std::pair<std::string, OperatorTime>> rows(operators.begin(), operators.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second.ms > b.second.ms; });
  fmt::print("memory: {:.1f} GB/s {}\n", memory_gbps, plan.device() == nullptr ? "read" : "copied, to and fro");
  fmt::print("{:<28} {:>6} {:>10} {:>7} {:>10} {:>8}\n", "operator (kernel)", "nodes", "ms", "%", "GFLOP/s", "GB/s");
  for (const auto& [name, entry] : rows) {
    const std::string rate = entry.flops > 0 ? fmt::format("{:.1f}", entry.flops / entry.ms * 1e-6) : "";
    fmt::print("{:<28} {:>6} {:>10.2f} {:>7.1f} {:>10} {:>8.1f}\n", name, entry.count, entry.ms,
               100 * entry.ms / total_ms, rate, entry.bytes / entry.ms * 1e-6);
  }
}

}  // namespace

void add_bench_step(CLI::App& bench) {
  CLI::App* step =
      bench.add_subcommand("step", "One transformer step at a published model's width, with random weights");
  auto flags = std::make_shared<BenchStepFlags>();
  add_value(*step, "--preset", flags->preset, "flux.1-dev, flux.1-schnell or emoji (default flux.1-dev)");
  add_value(*step, "--layers", flags->layers, "DOUBLE,SINGLE blocks (default: the preset's)");
  add_value(*step, "--width", flags->width, "pixels, 16 a token (default 512)");
  add_value(*step, "--height", flags->height, "pixels, 16 a token (default 512)");
  add_value(*step, "--text-tokens", flags->text_tokens, "text tokens (default 512)");
  add_value(*step, "--branches", flags->branches, "prompts in one run over the same latents (default 1)");
  add_value(*step, "--runs", flags->runs, "timed runs after two warm-ups (default 5)");
  step->add_flag("--json", flags->as_json, "print one JSON object");
  flags->run.add_to(*step);
  flags->parallel.add_to(*step);
  step->callback([flags] { run_step(*flags); });
}

}  // namespace rondo::cli
