#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/run_flags.h"
#include "core/text.h"
#include "graph/buffer_layout.h"
#include "graph/pass_manager.h"
#include "graph/placement.h"
#include "io/safetensors.h"
#include "pipelines/flux_inspection.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

struct InspectFlags {
  std::string path;
  std::optional<std::string> graph;
  std::optional<std::string> width;
  std::optional<std::string> height;
  bool tensors = false;
  bool list_passes = false;
  bool plan = false;
  bool explain_fusion = false;
  RunFlags run;
};

void print_tensors(const WeightSource& checkpoint) {
  for (const std::string& name : checkpoint.names()) {
    const TensorRecord& record = *checkpoint.find(name);
    fmt::print("  {}  {} {}  {}\n", printable(name), dtype_name(record.dtype), record.shape.to_string(),
               human_bytes(record.bytes));
  }
}

void print_passes(const std::vector<PassResult>& results, bool near_misses) {
  for (const PassResult& result : results) {
    fmt::print("  pass {}\n", result.to_string());
    if (!near_misses) continue;
    for (const std::string& miss : result.near_misses) fmt::print("    near miss at {}\n", miss);
  }
}

/// What of the graph would run where, on another device than the CPU.
void print_placement(const InspectedComponent& component) {
  const PlanTarget& target = component.options.target;
  if (target.device == nullptr) return;
  Graph placed = component.graph;
  const Placement placement = place_on_device(placed, *target.device, target.threads, target.no_messages);
  fmt::print("  placement: {}\n", placement.to_string(target.where()));
  for (const std::string& missing : placement.missing)
    fmt::print("    no kernel on {}: {}\n", to_string(target.where()), missing);
}

void inspect_file(const std::string& path) {
  const Checkpoint checkpoint = Checkpoint::open_file(path);
  fmt::print("{}: {} tensors, {}\n", path, checkpoint.names().size(), human_bytes(checkpoint.stored_bytes()));
  print_tensors(checkpoint);
}

void inspect_folder(const InspectFlags& flags) {
  const PipelineOptions options = flags.run.options();
  FluxInspection inspection = FluxInspection::open(flags.path, options);
  const std::int64_t width = flags.width ? parse_integer("--width", *flags.width) : inspection.default_side();
  const std::int64_t height = flags.height ? parse_integer("--height", *flags.height) : inspection.default_side();
  std::vector<InspectedComponent> components = inspection.components(width, height);

  if (flags.graph) {
    for (InspectedComponent& component : components) {
      if (component.name != *flags.graph) continue;
      run_flow(component.graph, component.options);
      fmt::print("{}", component.graph.to_string());
      return;
    }
    throw UsageError(fmt::format("--graph: '{}' is given; allowed are text_encoder, text_encoder_2, transformer, vae",
                                 *flags.graph));
  }

  fmt::print("{}: FluxPipeline at {} x {}, would run in {} on {}\n", flags.path, width, height,
             dtype_name(inspection.dtype()), to_string(inspection.device()));
  std::uint64_t total = 0;
  for (InspectedComponent& component : components) {
    const std::size_t nodes_before = component.graph.nodes.size();
    const std::vector<PassResult> results = run_flow(component.graph, component.options);
    const BufferLayout layout = lay_out_buffers(component.graph);
    double flops = 0;
    for (const Node& node : component.graph.nodes) flops += node.op->flops(component.graph.input_types(node));
    fmt::print("\n{} ({})\n", component.name, component.class_name);
    fmt::print("  weights: {} tensors, {} in {}\n", component.weights->names().size(),
               human_bytes(component.weights->stored_bytes()), component.weights->source());
    fmt::print("  graph: {} nodes ({} before passes), {} segments, {} a run\n", component.graph.nodes.size(),
               nodes_before, component.graph.segments.size(), human_count(flops, "FLOP"));
    fmt::print("  buffers: {} planned, {} without reuse\n", human_bytes(layout.memory.arena_bytes),
               human_bytes(layout.memory.naive_bytes));
    if (flags.plan || flags.explain_fusion) print_passes(results, flags.explain_fusion);
    if (flags.plan) print_placement(component);
    component.config.erase("quantization_config");  // a line a layer; what comes of it stands under passes
    fmt::print("  config: {}\n", component.config.dump());
    if (flags.tensors) print_tensors(*component.weights);
    total += component.resident_weight_bytes + layout.memory.arena_bytes;
  }
  fmt::print("\nmemory: about {} (weights in {}, and buffers; kernels' scratch comes on top)\n", human_bytes(total),
             dtype_name(inspection.dtype()));
}

void run(const InspectFlags& flags) {
  if (flags.list_passes) {
    constexpr std::array kStages{"attention", "parallelism", "quantization", "compile"};
    for (const Pass& pass : all_passes())
      fmt::print("{} ({}): {}\n", pass.name, kStages[static_cast<std::size_t>(pass.stage)], pass.what);
    return;
  }
  if (flags.path.empty()) throw UsageError("inspect: no folder or file is given");
  if (std::filesystem::is_directory(flags.path)) {
    inspect_folder(flags);
  } else {
    inspect_file(flags.path);
  }
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show a model folder or a .safetensors file: configs, tensors, graphs, memory");
  auto flags = std::make_shared<InspectFlags>();
  command->add_option("path", flags->path, "model folder, or .safetensors file");
  command->add_flag("--tensors", flags->tensors, "list every tensor");
  command->add_flag("--plan", flags->plan,
                    "list what each graph pass did and, with --device, what runs where and has no kernel there");
  command->add_flag("--explain-fusion", flags->explain_fusion, "and why it left alone what looks like its pattern");
  command->add_flag(
      "--list-passes", flags->list_passes,
      "list the graph passes, stage by stage; --passes and --no-pass choose among those of the stage compile");
  add_value(*command, "--graph", flags->graph, "print the graph of text_encoder, text_encoder_2, transformer or vae");
  add_value(*command, "--width", flags->width, "pixels (default: the model's)");
  add_value(*command, "--height", flags->height, "pixels (default: the model's)");
  flags->run.add_to(*command);
  command->callback([flags] { run(*flags); });
}

}  // namespace rondo::cli
