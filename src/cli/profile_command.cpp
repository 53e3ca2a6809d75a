// `rondo profile`: where a picture's time goes, operator by operator, and what bounds each.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "backends/cpu/peak.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/model_folder.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

struct ProfileFlags {
  std::optional<std::string> model;
  std::optional<std::string> prompt;
  std::optional<std::string> steps;
  std::optional<std::string> width;
  std::optional<std::string> height;
  bool as_json = false;
  RunFlags run;
};

/// What the machine can do with so many threads.
struct Peaks {
  double gflops;  // in the compute dtype
  double gops_int8;
  double gbytes;

  bool known() const { return gflops > 0; }
};

Peaks measure_peaks(DType dtype, int threads) {
  const double f32 = cpu::measure_peak(DType::f32, threads);
  const double compute = dtype == DType::f32 ? f32 : cpu::measure_peak(dtype, threads);
  // AMX multiplies twice as many bytes as bfloat16 at a time, VNNI four times as many as floats; without VNNI a product
  // of bytes takes two instructions.
  double int8 = 2 * f32;
  if (cpu_level() >= CpuLevel::avx512_vnni) int8 = 4 * f32;
  if (cpu_level() >= CpuLevel::avx512_amx) int8 = 2 * cpu::measure_peak(DType::bf16, threads);
  return {compute, int8, cpu::measure_read_bandwidth(threads)};
}

struct Row {
  std::string component;
  std::string op;
  std::string kernel;
  int calls = 0;
  double ms = 0;
  double operations = 0;
  double bytes = 0;

  double gflops() const { return operations / ms * 1e-6; }
  double gbytes() const { return bytes / ms * 1e-6; }
  double compute_share(const Peaks& peaks) const {
    return gflops() / (kernel == "int8" ? peaks.gops_int8 : peaks.gflops);
  }
  double memory_share(const Peaks& peaks) const { return gbytes() / peaks.gbytes; }
  /// "compute", "memory", "cache" (faster than memory could be), "latency" (far from every peak: short calls, threads
  /// that meet, sums that wait) or "dispatch" (calls of microseconds).
  std::string_view bound(const Peaks& peaks) const {
    if (!peaks.known()) return "";
    constexpr double kShortMs = 0.005;
    if (ms / calls < kShortMs) return "dispatch";
    constexpr double kFar = 0.25;
    if (std::max(compute_share(peaks), memory_share(peaks)) < kFar) return "latency";
    if (compute_share(peaks) >= memory_share(peaks)) return "compute";
    return memory_share(peaks) > 1 ? "cache" : "memory";
  }
};

std::vector<Row> rows_of(const RunReport& report) {
  std::map<std::string, Row> rows;
  for (const RunReport::Event& event : report.events) {
    Row& row = rows[event.component + "/" + event.op + "/" + event.kernel];
    row.component = event.component;
    row.op = event.op;
    row.kernel = event.kernel;
    ++row.calls;
    row.ms += event.duration_ms;
    row.operations += event.operations;
    row.bytes += event.bytes;
  }
  std::vector<Row> sorted;
  for (auto& [key, row] : rows) sorted.push_back(std::move(row));
  std::sort(sorted.begin(), sorted.end(), [](const Row& a, const Row& b) { return a.ms > b.ms; });
  return sorted;
}

void run(const ProfileFlags& flags) {
  PipelineOptions options = flags.run.options();
  options.trace = true;
  TextToImagePipeline pipeline = TextToImagePipeline::open(choose_model_folder(flags.model), options);
  TextToImageRequest request;
  request.prompt = flags.prompt.value_or("red heart");
  request.seed = 1;
  if (flags.steps) request.num_inference_steps = parse_integer("--num-inference-steps", *flags.steps);
  if (flags.width) request.width = parse_integer("--width", *flags.width);
  if (flags.height) request.height = parse_integer("--height", *flags.height);
  const ResolvedTextToImageRequest resolved = pipeline.resolve(request);
  RunObserver observer;
  observer.cancel = &cancel_on_interrupt();
  const auto ignore = [](GeneratedImage&&) {};
  pipeline.generate(resolved, ignore, observer);  // loads weights and warms up
  const RunReport report = pipeline.generate(resolved, ignore, observer);
  // Only the CPU's are measured.
  const bool on_cpu = pipeline.device().is_cpu();
  const Peaks peaks = on_cpu ? measure_peaks(pipeline.dtype(), pipeline.threads()) : Peaks{0, 0, 0};
  const std::vector<Row> rows = rows_of(report);
  double total = 0;
  for (const Row& row : rows) total += row.ms;

  if (flags.as_json) {
    json table = json::array();
    for (const Row& row : rows) {
      table.push_back({{"component", row.component},
                       {"operator", row.op},
                       {"kernel", row.kernel},
                       {"calls", row.calls},
                       {"ms", row.ms},
                       {"gflops", row.gflops()},
                       {"gbytes_per_second", row.gbytes()}});
      if (!peaks.known()) continue;
      table.back()["share_of_compute_peak"] = row.compute_share(peaks);
      table.back()["share_of_memory_peak"] = row.memory_share(peaks);
      table.back()["bound"] = row.bound(peaks);
    }
    fmt::print("{}\n", json{{"schema_version", 1},
                            {"device", to_string(pipeline.device())},
                            {"dtype", dtype_name(pipeline.dtype())},
                            {"threads", pipeline.threads()},
                            {"cpu_level", cpu_level_name(cpu_level())},
                            {"peak_gflops", peaks.gflops},
                            {"peak_gops_int8", peaks.gops_int8},
                            {"peak_gbytes_per_second", peaks.gbytes},
                            {"operators", table}}
                           .dump());
    return;
  }
  fmt::print("{} x {}, {} steps, {} on {}, {} threads, CPU level {}\n", resolved.width, resolved.height,
             resolved.num_inference_steps, dtype_name(pipeline.dtype()), to_string(pipeline.device()),
             pipeline.threads(), cpu_level_name(cpu_level()));
  if (peaks.known())
    fmt::print("peaks measured here: {:.0f} GFLOP/s in {}, {:.1f} GB/s read\n", peaks.gflops,
               dtype_name(pipeline.dtype()), peaks.gbytes);
  fmt::print("{:<16} {:<36} {:>7} {:>9} {:>6} {:>9} {:>8} {:>8} {:>7}  {}\n", "component", "operator (kernel)", "calls",
             "ms", "%", "GFLOP/s", "of peak", "GB/s", "of peak", "bound by");
  for (const Row& row : rows) {
    const bool counts = row.operations > 0;
    const auto share = [&](double part) { return peaks.known() ? fmt::format("{:.0f}%", 100 * part) : std::string(); };
    fmt::print("{:<16} {:<36} {:>7} {:>9.2f} {:>6.1f} {:>9} {:>8} {:>8.1f} {:>7}  {}\n", row.component,
               fmt::format("{} ({})", row.op, row.kernel), row.calls, row.ms, 100 * row.ms / total,
               counts ? fmt::format("{:.1f}", row.gflops()) : "", counts ? share(row.compute_share(peaks)) : "",
               row.gbytes(), share(row.memory_share(peaks)), row.bound(peaks));
  }
  fmt::print("operators {:.1f} ms of {:.1f} ms\n", total, [&] {
    double stages = 0;
    for (const RunReport::Stage& stage : report.stages) stages += stage.duration_ms;
    return stages;
  }());
}

}  // namespace

void add_profile_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("profile", "Where a picture's time goes, by operator, and what bounds each");
  auto flags = std::make_shared<ProfileFlags>();
  add_value(*command, "--model", flags->model, "folder in diffusers layout (default: the bundled model)");
  add_value(*command, "-p,--prompt", flags->prompt, "what to draw (default: red heart)");
  add_value(*command, "--num-inference-steps", flags->steps, "denoising steps (default: the model's)");
  add_value(*command, "--width", flags->width, "pixels (default: the model's)");
  add_value(*command, "--height", flags->height, "pixels (default: the model's)");
  command->add_flag("--json", flags->as_json, "print one JSON object");
  flags->run.add_to(*command);
  command->callback([flags] { run(*flags); });
}

}  // namespace rondo::cli
