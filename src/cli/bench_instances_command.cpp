// `rondo bench instances`: one instance with all threads against several that share them out, and what each takes.
#include <fmt/format.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench.h"
#include "cli/cancel.h"
#include "cli/model_folder.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/trace.h"
#include "pipelines/instance_pool.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

struct BenchInstancesFlags {
  std::optional<std::string> model;
  std::optional<std::string> instances;
  std::optional<std::string> pictures;
  std::optional<std::string> rounds;
  bool as_json = false;
  RunFlags run;
};

/// A line of /proc/self/smaps_rollup, such as "Pss", in bytes; 0 where the kernel has none.
std::uint64_t memory_line(const std::string& name) {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    unsigned long long kilobytes = 0;
    if (line.starts_with(name + ":") && std::sscanf(line.c_str() + name.size() + 1, "%llu", &kilobytes) == 1)
      return kilobytes * 1024;
  }
  return 0;
}

/// A number of instances, ready to run.
struct Contender {
  int instances;
  TextToImagePipeline pipeline;
  std::unique_ptr<InstancePool> pool;
  std::vector<double> rates = {};  // pictures a second
  std::uint64_t pss = 0;
};

void run(const BenchInstancesFlags& flags) {
  const std::string model = choose_model_folder(flags.model);
  PipelineOptions options = flags.run.options();
  const int threads = options.threads.value_or(default_threads());
  const std::int64_t pictures = bounded("--pictures", flags.pictures, 8, 1, 10000);
  const std::int64_t rounds = bounded("--rounds", flags.rounds, 5, 1, 1000);
  const std::uint64_t base = memory_line("Pss");
  std::vector<Contender> contenders;
  for (const std::string& text : split_list(flags.instances.value_or("1,2"))) {
    const auto instances = static_cast<int>(bounded("--instances", text, 1, 1, 64));
    options.threads = std::max(1, threads / instances);
    contenders.push_back({instances, TextToImagePipeline::open(model, options), nullptr});
  }
  if (contenders.empty()) throw UsageError("--instances: none is given");
  std::uint64_t weights = 0;
  std::uint64_t arena = 0;
  std::uint64_t before = base;
  for (Contender& contender : contenders) {  // they do not move any more
    contender.pool = std::make_unique<InstancePool>(contender.pipeline, contender.instances);
    TextToImageRequest request;
    request.prompt = "red heart";
    request.seed = 1;
    const std::vector<ResolvedTextToImageRequest> warm_up(static_cast<std::size_t>(contender.instances),
                                                          contender.pipeline.resolve(request));
    const auto results = contender.pool->run(
        warm_up, [](std::size_t, GeneratedImage&&) {}, &cancel_on_interrupt());
    if (!results[0].error.empty()) throw Error(results[0].error);
    weights = arena = 0;
    for (const RunReport::Component& component : results[0].report.components) {
      weights += component.resident_bytes;
      arena += component.arena_bytes;
    }
    const std::uint64_t now = memory_line("Pss");
    contender.pss = now - before;
    before = now;
  }
  for (std::int64_t round = 0; round < rounds; ++round) {
    for (Contender& contender : contenders) {
      TextToImageRequest request;
      request.prompt = "red heart";
      request.seed = 1;
      const std::vector<ResolvedTextToImageRequest> requests(static_cast<std::size_t>(pictures),
                                                             contender.pipeline.resolve(request));
      const Trace clock;
      contender.pool->run(
          requests, [](std::size_t, GeneratedImage&&) {}, &cancel_on_interrupt());
      contender.rates.push_back(static_cast<double>(pictures) / clock.now_ms() * 1e3);
    }
  }
  const double first = spread_of(contenders.front().rates).median;
  if (flags.as_json) {
    json rows = json::array();
    for (const Contender& contender : contenders) {
      const Spread spread = spread_of(contender.rates);
      rows.push_back({{"instances", contender.instances},
                      {"threads_each", contender.pipeline.threads()},
                      {"pictures_per_second", spread.median},
                      {"ratio", spread.median / first},
                      {"added_pss_bytes", contender.pss}});
    }
    fmt::print("{}\n", json{{"schema_version", 1},
                            {"cpu_level", cpu_level_name(cpu_level())},
                            {"base_pss_bytes", base},
                            {"packed_weight_bytes", weights},
                            {"arena_bytes", arena},
                            {"contenders", rows}}
                           .dump());
    return;
  }
  fmt::print("{}: {}, CPU level {}, {} pictures a round, medians of {} rounds that alternate\n", model,
             dtype_name(contenders.front().pipeline.dtype()), cpu_level_name(cpu_level()), pictures, rounds);
  fmt::print("memory: process {} before, weights packed {} once, buffers {} an instance\n", human_bytes(base),
             human_bytes(weights), human_bytes(arena));
  for (const Contender& contender : contenders) {
    const Spread spread = spread_of(contender.rates);
    fmt::print("{} x {} threads: {:.2f} pictures/s (min {:.2f}, max {:.2f}), {:.2f} x the first; added {} (PSS)\n",
               contender.instances, contender.pipeline.threads(), spread.median, spread.least, spread.most,
               spread.median / first, human_bytes(contender.pss));
  }
}

}  // namespace

void add_bench_instances(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand("instances", "Pictures a second and memory of several instances of a model");
  auto flags = std::make_shared<BenchInstancesFlags>();
  add_value(*command, "--model", flags->model, "folder in diffusers layout (default: the bundled model)");
  add_value(*command, "--instances", flags->instances,
            "numbers of instances to compare, separated by commas (default 1,2); they share out --threads");
  add_value(*command, "--pictures", flags->pictures, "pictures a round (default 8)");
  add_value(*command, "--rounds", flags->rounds, "rounds that alternate (default 5)");
  command->add_flag("--json", flags->as_json, "print one JSON object");
  flags->run.add_to(*command);
  command->callback([flags] { run(*flags); });
}

}  // namespace rondo::cli
