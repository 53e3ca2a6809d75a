#include "pipelines/plan_options.h"

#include <fmt/format.h>

#include "backends/attention_backends.h"
#include "backends/compute_dtype.h"
#include "backends/devices.h"
#include "core/env.h"
#include "core/text.h"
#include "core/threads.h"
#include "parallel/world.h"
#include "pipelines/rank_devices.h"
#include "rondo/error.h"

namespace rondo {

namespace {

bool disabled_by_environment() {
  const std::string value = env_value("RONDO_DISABLE_COMPILE").value_or("0");
  if (value != "0" && value != "1")
    throw InvalidArgument(fmt::format("RONDO_DISABLE_COMPILE: '{}' is given; allowed are 0 and 1", printable(value)));
  return value == "1";
}

std::optional<LinearFormat> format_or_none(const std::string& name, std::string_view source) {
  if (name == "none" || name.empty()) return std::nullopt;
  return parse_linear_format(name, source);
}

QuantizationPolicy quantization_policy(const LinearQuantizationOptions& options) {
  QuantizationPolicy policy;
  policy.format = format_or_none(options.format, "quantize");
  policy.keeps_stored = options.format.empty();
  if (options.exclude) policy.exclude = *options.exclude;
  for (const LinearQuantizationOptions::Rule& rule : options.rules) {
    if (rule.pattern.empty()) throw InvalidArgument("quantize-rule: the pattern is empty; allowed is GLOB=FORMAT");
    policy.rules.push_back({rule.pattern, format_or_none(rule.format, "quantize-rule")});
  }
  policy.group = options.group;
  if (policy.group != 32 && policy.group != 64 && policy.group != 128)
    throw InvalidArgument(fmt::format("quantize-group: {} is given; allowed are 32, 64 and 128", policy.group));
  policy.rotate = options.rotate;
  policy.skip_steps = parse_selector(options.skip_steps, "quantize-skip-steps");
  return policy;
}

/// The groups, which keep their world alive.
std::shared_ptr<const ProcessGroups> groups_of(const std::shared_ptr<ParallelWorld>& world,
                                               const ParallelDegrees& degrees) {
  struct Kept {
    std::shared_ptr<ParallelWorld> world;
    ProcessGroups groups;
  };
  const auto kept = std::make_shared<Kept>(Kept{world, ProcessGroups(world->implementation().communicator(), degrees)});
  return {kept, &kept->groups};
}

/// The device, and for several ranks which of them, and how they exchange messages.
PlanTarget target_of(const PipelineOptions& options) {
  PlanTarget target;
  if (options.world == nullptr) {
    target.device = open_device(find_device(options.device));
    return target;
  }
  Communicator& world = options.world->implementation().communicator();
  const std::vector<std::string> hosts = hosts_of_ranks(world);
  target.device = open_device(find_device_of_turn(options.device, place_on_host(hosts, world.rank())));
  target.no_messages = refuse_messages(world, target.device.get());
  return target;
}

PlanTarget::Recording recording_of(const PipelineOptions& options, const PlanTarget& target) {
  if (options.cuda_graph == CudaGraph::automatic) return PlanTarget::Recording::possible;
  if (options.cuda_graph == CudaGraph::off) return PlanTarget::Recording::never;
  const auto refuse = [](const std::string& why) {
    throw InvalidArgument(fmt::format("cuda-graph: on is given, but {}; allowed are auto and off", why));
  };
  if (target.device == nullptr) refuse("on the CPU there is nothing to record");
  if (const auto refusal = target.device->runtime().refuse_recording())
    refuse(fmt::format("{}: {}", to_string(target.where()), *refusal));
  if (options.world != nullptr && options.world->size() > 1) refuse("steps of several ranks are not recorded");
  if (options.layerwise_offload == LayerwiseOffload::on)
    refuse("layerwise-offload is on as well, whose steps are not recorded");
  return PlanTarget::Recording::always;
}

}  // namespace

PlanOptions plan_options(const PipelineOptions& options) {
  constexpr int kMostThreads = 1024;
  PlanOptions plan;
  plan.target = target_of(options);
  plan.target.allow_cpu_fallback = options.allow_cpu_fallback;
  if (plan.target.device == nullptr && options.layerwise_offload == LayerwiseOffload::on) {
    throw InvalidArgument(
        "layerwise-offload: on is given, but on the CPU there is no other memory; allowed are auto and off");
  }
  plan.target.recording = recording_of(options, plan.target);
  plan.target.threads = options.threads.value_or(default_threads());
  if (plan.target.threads < 1 || plan.target.threads > kMostThreads) {
    throw InvalidArgument(fmt::format("threads: {} is given; allowed is 1 to {}", plan.target.threads, kMostThreads));
  }
  plan.target.threads = available_threads(plan.target.threads);
  plan.passes.without = options.without_passes;
  const bool compiles = options.compile.value_or(!disabled_by_environment());
  plan.passes.only_is_set = options.only_passes.has_value() || !compiles;
  if (compiles) plan.passes.only = options.only_passes.value_or(std::vector<std::string>{});
  plan.passes.check();
  plan.attention.backend = options.attention_backend;
  if (AttentionRequest::NamedBackend named = plan.attention.named_backend(); !named.name.empty()) {
    attention_registry().find(named.name, named.source);
    plan.attention.backend = std::move(named.name);
    plan.attention.backend_source = std::move(named.source);
  }
  plan.attention.reads_environment = false;  // it has been read, for the transformer
  plan.attention.tune = options.tune;
  plan.quantization = quantization_policy(options.quantization);
  return plan;
}

ComputeOptions compute_options(const PipelineOptions& options) {
  ComputeOptions compute;
  compute.plan = plan_options(options);
  compute.dtype = resolve_compute_dtype(options.dtype, compute.plan.target.device.get());
  compute.kv_cache = options.kv_cache;
  const ParallelDegrees degrees = parallel_degrees(options.parallel, options.world ? options.world->size() : 1);
  if (options.world == nullptr) return compute;
  compute.groups = groups_of(options.world, degrees);
  compute.messages = describe_messages(options.world->implementation().communicator(), compute.plan.target);
  compute.plan.parallel = {degrees, compute.groups->place(), options.parallel.replicate_text,
                           options.parallel.ring_wire};
  return compute;
}

PlanOptions options_of_other_parts(PlanOptions options) {
  options.attention.backend.clear();
  options.quantization = {};
  options.kv_cache = {};
  options.parallel = {};
  return options;
}

}  // namespace rondo
