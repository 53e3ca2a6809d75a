// `rondo plan parallel`: which degrees suit so many ranks, by the cost model.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "backends/compute_dtype.h"
#include "backends/cpu/peak.h"
#include "cli/commands.h"
#include "cli/run_flags.h"
#include "cli/values.h"
#include "core/text.h"
#include "core/threads.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/flux_presets.h"
#include "parallel/cost_model.h"

namespace rondo::cli {
namespace {

struct PlanFlags {
  std::optional<std::string> model;
  std::optional<std::string> layers;
  std::optional<std::string> width;
  std::optional<std::string> height;
  std::optional<std::string> text_tokens;
  std::optional<std::string> branches;
  std::optional<std::string> ranks;
  std::optional<std::string> ranks_per_host;
  std::optional<std::string> bandwidth;
  std::optional<std::string> host_bandwidth;
  std::optional<std::string> latency;
  std::optional<std::string> linear_gflops;
  std::optional<std::string> attention_gflops;
  std::optional<std::string> memory_bandwidth;
  std::optional<std::string> threads;
  bool as_json = false;
};

/// "25Gb" -> bytes a second: bits a second, with K, M, G or T of ten.
double parse_bandwidth(const std::string& flag, const std::string& text) {
  std::size_t digits = text.find_first_not_of("0123456789.");
  if (digits == std::string::npos) digits = text.size();
  double unit = 0;
  for (const auto& [suffix, factor] :
       {std::pair("Kb", 1e3), std::pair("Mb", 1e6), std::pair("Gb", 1e9), std::pair("Tb", 1e12), std::pair("Kbit", 1e3),
        std::pair("Mbit", 1e6), std::pair("Gbit", 1e9), std::pair("Tbit", 1e12)}) {
    if (text.substr(digits) == suffix) unit = factor;
  }
  const double value = unit == 0 || digits == 0 ? 0 : parse_number(flag, text.substr(0, digits));
  if (!(value > 0)) {
    throw UsageError(
        fmt::format("{}: '{}' is given; allowed are bits a second such as 25Gb or 400Mb", flag, printable(text)));
  }
  return value * unit / 8;
}

double positive(const std::string& flag, const std::optional<std::string>& text, double absent) {
  if (!text) return absent;
  const double value = parse_number(flag, *text);
  if (!(value > 0)) throw UsageError(fmt::format("{}: {} is given; allowed is more than 0", flag, value));
  return value;
}

/// Operations a second of this machine at the model's width, by a block on few tokens.
void measure_rates(const FluxTransformerConfig& config, DType dtype, int threads, RankMachine& machine) {
  FluxTransformerConfig block = config;
  block.num_layers = 0;
  block.num_single_layers = 1;
  const FluxTransformerShape shape{1, 256, 16, 32, dtype};
  const auto build = [&] { return build_flux_transformer(block, shape, nullptr); };
  Model model(std::make_shared<const RandomWeights>(build()));
  PlanOptions options;
  options.target.threads = threads;
  Session session(model.plan("rates", options, build));
  std::vector<double> step_ms;
  RunContext context;
  session.run(context);
  context.step_ms = &step_ms;
  session.run(context);
  double linear_ms = 0;
  double linear_flops = 0;
  double attention_ms = 0;
  double attention_flops = 0;
  for (std::size_t i = 0; i < step_ms.size(); ++i) {
    const Graph& graph = session.plan().graph();
    const Node& node = session.plan().node(session.plan().steps()[i]);
    const std::vector<TensorType> types = graph.input_types(node);
    const double flops = node.op->flops(types);
    if (node.op->name() == "attention") {
      attention_ms += step_ms[i];
      attention_flops += flops;
    } else if (node.op->name() == "linear" && types[0].shape.rank() == 3) {
      linear_ms += step_ms[i];
      linear_flops += flops;
    }
  }
  machine.linear_rate = linear_flops / linear_ms * 1e3;
  machine.attention_rate = attention_flops / attention_ms * 1e3;
}

/// Bytes of the modulations, which depend on no token.
double modulation_bytes(const FluxTransformerConfig& c, std::size_t element_bytes) {
  constexpr double kDouble = 12;  // shift, scale and gate, twice, for text and picture
  constexpr double kSingle = 3;
  const auto width = static_cast<double>(c.inner_dim());
  return (kDouble * static_cast<double>(c.num_layers) + kSingle * static_cast<double>(c.num_single_layers)) * width *
         width * static_cast<double>(element_bytes);
}

void run_parallel(const PlanFlags& flags) {
  constexpr std::int64_t kMostRanks = 65536;
  constexpr std::int64_t kPixelsPerToken = 16;
  const std::string name = flags.model.value_or("flux.1-dev");
  FluxTransformerConfig config = find_flux_preset(name, "--model");
  if (flags.layers) std::tie(config.num_layers, config.num_single_layers) = parse_layers(*flags.layers);
  if (config.layers() == 0) throw UsageError("--layers: 0,0 is given; allowed is at least one block");
  const auto ranks = static_cast<int>(bounded("--ranks", flags.ranks, 1, 1, kMostRanks));
  const DType dtype = resolve_compute_dtype(std::nullopt);
  const int threads = static_cast<int>(bounded("--threads", flags.threads, default_threads(), 1, 1024));
  const std::int64_t width = bounded("--width", flags.width, 1024, kPixelsPerToken, 16384);
  const std::int64_t height = bounded("--height", flags.height, 1024, kPixelsPerToken, 16384);
  if (width % kPixelsPerToken != 0 || height % kPixelsPerToken != 0) {
    throw UsageError(fmt::format("--width, --height: {} x {} is given; allowed are multiples of {}", width, height,
                                 kPixelsPerToken));
  }
  StepWorkload work;
  work.tokens = (width / kPixelsPerToken) * (height / kPixelsPerToken) +
                bounded("--text-tokens", flags.text_tokens, 512, 1, 4096);
  work.width = config.inner_dim();
  work.heads = config.num_attention_heads;
  work.layers = config.layers();
  work.branches = static_cast<int>(bounded("--branches", flags.branches, 1, 1, 2));
  work.element_bytes = static_cast<int>(dtype_size(dtype));
  work.shared_weight_bytes = modulation_bytes(config, dtype_size(dtype));

  RankMachine machine;
  machine.ranks_per_host = static_cast<int>(bounded("--ranks-per-host", flags.ranks_per_host, 1, 1, kMostRanks));
  machine.network_rate = parse_bandwidth("--bandwidth", flags.bandwidth.value_or("10Gb"));
  if (flags.host_bandwidth) machine.host_rate = parse_bandwidth("--host-bandwidth", *flags.host_bandwidth);
  machine.latency = positive("--latency", flags.latency, machine.latency * 1e6) * 1e-6;
  if (!flags.linear_gflops || !flags.attention_gflops) measure_rates(config, dtype, threads, machine);
  machine.linear_rate = positive("--linear-gflops", flags.linear_gflops, machine.linear_rate * 1e-9) * 1e9;
  machine.attention_rate = positive("--attention-gflops", flags.attention_gflops, machine.attention_rate * 1e-9) * 1e9;
  machine.memory_rate = flags.memory_bandwidth ? positive("--memory-bandwidth", flags.memory_bandwidth, 1) * 1e9
                                               : cpu::measure_read_bandwidth(threads) * 1e9;

  const double alone = predict_step(work, machine, {}).total();
  const std::vector<StepPrediction> ways = rank_degrees(work, machine, ranks);
  if (flags.as_json) {
    nlohmann::json list = nlohmann::json::array();
    for (const StepPrediction& p : ways) {
      list.push_back({{"ulysses_degree", p.degrees.ulysses},
                      {"ring_degree", p.degrees.ring},
                      {"cfg_parallel", p.degrees.cfg},
                      {"seconds", p.total()},
                      {"seconds_compute", p.compute},
                      {"seconds_ulysses", p.ulysses},
                      {"seconds_ring", p.ring},
                      {"sent_bytes", p.sent_bytes},
                      {"key_value_bytes", p.key_value_bytes}});
    }
    const nlohmann::json result{{"schema_version", 1},
                                {"model", name},
                                {"tokens", work.tokens},
                                {"ranks", ranks},
                                {"linear_gflops", machine.linear_rate * 1e-9},
                                {"attention_gflops", machine.attention_rate * 1e-9},
                                {"memory_gbytes", machine.memory_rate * 1e-9},
                                {"seconds_alone", alone},
                                {"ways", std::move(list)}};
    fmt::print("{}\n", result.dump());
    return;
  }
  fmt::print("{}: {} tokens, {} layers, {}; {} ranks, {} a host, links of {:.3g} Gb/s\n", name, work.tokens,
             work.layers, dtype_name(dtype), ranks, machine.ranks_per_host, machine.network_rate * 8e-9);
  fmt::print("a rank: products {:.0f} GFLOP/s, attention {:.0f} GFLOP/s, memory {:.1f} GB/s{}\n",
             machine.linear_rate * 1e-9, machine.attention_rate * 1e-9, machine.memory_rate * 1e-9,
             flags.linear_gflops && flags.attention_gflops ? "" : fmt::format(" (measured here, {} threads)", threads));
  fmt::print("{:>8} {:>5} {:>4} {:>10} {:>9} {:>9} {:>9} {:>8} {:>10} {:>10}\n", "ulysses", "ring", "cfg", "s a step",
             "compute", "exchange", "ring", "speed-up", "sent", "K, V");
  for (const StepPrediction& p : ways) {
    fmt::print("{:>8} {:>5} {:>4} {:>10.3f} {:>9.3f} {:>9.3f} {:>9.3f} {:>7.2f}x {:>10} {:>10}\n", p.degrees.ulysses,
               p.degrees.ring, p.degrees.cfg, p.total(), p.compute, p.ulysses, p.ring, alone / p.total(),
               human_bytes(static_cast<std::uint64_t>(p.sent_bytes)),
               human_bytes(static_cast<std::uint64_t>(p.key_value_bytes)));
  }
  const ParallelDegrees& best = ways.front().degrees;
  fmt::print("recommended: --ulysses-degree {} --ring-degree {}{}\n", best.ulysses, best.ring,
             best.cfg > 1 ? " --cfg-parallel" : "");
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* plan = app.add_subcommand("plan", "Predict");
  plan->require_subcommand(1);
  CLI::App* command =
      plan->add_subcommand("parallel", "Which degrees suit so many ranks, with predicted times (docs/parallel.md)");
  auto flags = std::make_shared<PlanFlags>();
  PlanFlags& f = *flags;
  add_value(*command, "--model,--preset", f.model, "flux.1-dev (the default), flux.1-schnell or emoji");
  add_value(*command, "--layers", f.layers, "DOUBLE,SINGLE blocks (default: the model's)");
  add_value(*command, "--width", f.width, "pixels, 16 a token (default 1024)");
  add_value(*command, "--height", f.height, "pixels, 16 a token (default 1024)");
  add_value(*command, "--text-tokens", f.text_tokens, "text tokens (default 512)");
  add_value(*command, "--branches", f.branches, "2 with true classifier-free guidance (default 1)");
  add_value(*command, "--ranks", f.ranks, "how many ranks (default 1)");
  add_value(*command, "--ranks-per-host", f.ranks_per_host, "ranks that share a host's link (default 1)");
  add_value(*command, "--bandwidth", f.bandwidth, "of a host's link, each way, such as 25Gb (default 10Gb)");
  add_value(*command, "--host-bandwidth", f.host_bandwidth, "between ranks of one host (default 40Gb)");
  add_value(*command, "--latency", f.latency, "of a message, in microseconds (default 50)");
  add_value(*command, "--linear-gflops", f.linear_gflops, "of a rank's products (default: measured here)");
  add_value(*command, "--attention-gflops", f.attention_gflops, "of a rank's attention (default: measured here)");
  add_value(*command, "--memory-bandwidth", f.memory_bandwidth, "of a rank, in GB/s (default: measured here)");
  add_value(*command, "--threads", f.threads, "threads of a rank, where its speed is measured");
  command->add_flag("--json", f.as_json, "print one JSON object");
  command->callback([flags] { run_parallel(*flags); });
}

}  // namespace rondo::cli
