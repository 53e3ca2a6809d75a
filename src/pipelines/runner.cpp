#include "pipelines/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/log.h"
#include "graph/buffer_layout.h"
#include "graph/passes/sequence_parallel.h"
#include "graph/weight_groups.h"
#include "io/safetensors.h"
#include "quantization/quantized_checkpoint.h"

namespace rondo {
namespace {

std::vector<std::string> summarize_kernels(const Plan& plan) {
  std::map<std::string, int> counts;
  for (const Plan::Step& step : plan.steps()) {
    ++counts[fmt::format("{}: {}", plan.node(step).op->name(), step.kernel_name)];
  }
  std::vector<std::string> lines;
  lines.reserve(counts.size());
  for (const auto& [kernel, count] : counts) lines.push_back(fmt::format("{} x {}", kernel, count));
  return lines;
}

}  // namespace

std::shared_ptr<const WeightSource> open_weights(const DiffusersFolder& folder, const std::string& component,
                                                 QuantizationPolicy& policy) {
  Checkpoint checkpoint = Checkpoint::open(folder.component(component));
  const JsonConfig config = folder.config(component);
  if (!config.has("quantization_config")) return std::make_shared<const Checkpoint>(std::move(checkpoint));
  auto quantized = QuantizedCheckpoint::open(std::move(checkpoint), config);
  if (policy.keeps_stored) policy.layers = quantized->layers();
  return quantized;
}

std::uint64_t resident_weight_bytes(const WeightSource& weights, DType dtype, const QuantizationPolicy& policy) {
  std::uint64_t bits = 0;
  for (const std::string& name : weights.names()) {
    const Shape& shape = weights.find(name)->shape;
    std::uint64_t each = 8 * dtype_size(dtype);
    if (policy.active() && shape.rank() == 2) {
      const LayerDecision decision = decide_layer(policy, layer_of_weight(name), shape[1]);
      const std::uint64_t kept = policy.skip_steps.empty() ? 0 : each;  // for the steps that run unquantised
      if (decision.quantization) each = kept + (decision.quantization->format == LinearFormat::w4a16 ? 4 : 8);
    }
    bits += static_cast<std::uint64_t>(shape.elements()) * each;
  }
  return bits / 8;
}

std::shared_ptr<Model> SharedModel::get() {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Model> model = model_.lock();
  if (model == nullptr) model_ = model = std::make_shared<Model>(weights_, cache_);
  return model;
}

bool SharedModel::is_loaded() const {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Model> model = model_.lock();
  return model != nullptr && model->weights().resident_bytes() > 0;
}

std::uint64_t SharedModel::device_bytes() const {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<Model> model = model_.lock();
  return model == nullptr ? 0 : model->weights().device_bytes();
}

void SharedModel::set_weight_budget(std::optional<std::uint64_t> bytes) {
  const std::lock_guard lock(mutex_);
  weight_budget_ = bytes;
}

std::optional<std::uint64_t> SharedModel::weight_budget() const {
  const std::lock_guard lock(mutex_);
  return weight_budget_;
}

Runner::Runner(std::string name, const DiffusersFolder& folder, const ComputeOptions& options)
    : name_(std::move(name)), options_(options) {
  shared_ =
      std::make_shared<SharedModel>(open_weights(folder, name_, options_.plan.quantization), options_.weight_cache);
}

Session& Runner::session(const std::string& key, const std::function<Graph()>& build) {
  if (session_ == nullptr || key != key_) {
    session_.reset();  // the old arena goes before the new one comes
    if (model_ == nullptr) model_ = shared_->get();
    options_.plan.target.weight_budget = shared_->weight_budget();
    session_ = std::make_unique<Session>(model_->plan(key, options_.plan, build));
    key_ = key;
    const Plan& plan = session_->plan();
    const std::string offload = plan.offload_to_string();
    if (!offload.empty()) log(LogLevel::info, "{}: layerwise offload: {}", name_, offload);
    last_report_ = {name_,
                    to_string(options_.plan.target.where()),
                    plan.device() == nullptr ? "" : plan.placement().to_string(plan.device()->device()),
                    offload,
                    "",
                    std::string(dtype_name(options_.dtype)),
                    0,
                    0,
                    plan.arena_bytes(),
                    plan.naive_bytes(),
                    summarize_kernels(plan),
                    {}};
    for (const PassResult& pass : plan.passes()) {
      last_report_.passes.push_back(pass.to_string());
    }
    last_report_.weight_bytes = model_->source().stored_bytes();
    last_report_.resident_bytes = model_->weights().resident_bytes();
  }
  return *session_;
}

void Runner::set_kv_cache(const KvCachePolicy& policy) {
  if (policy.to_string() != options_.plan.kv_cache.to_string()) session_.reset();
  options_.plan.kv_cache = policy;
}

void Runner::run(RunContext context) {
  context.component = name_;
  if (options_.plan.parallel.active()) context.sequence = &options_.groups->sequence();
  session_->run(context);
  last_report_.cuda_graph = session_->recorded_to_string();
}

RunReport::Component Runner::report() const { return last_report_; }

std::uint64_t Runner::weight_bytes() const {
  return resident_weight_bytes(source(), options_.dtype, options_.plan.quantization);
}

std::uint64_t Runner::least_weight_bytes(const Graph& graph) const {
  const std::uint64_t all = weight_bytes();
  const WeightGroups weights = group_weights(graph);
  const std::uint64_t elsewhere = all > weights.bytes() ? all - weights.bytes() : 0;
  return std::min(all, elsewhere + weights.least_bytes());
}

std::uint64_t Runner::bytes_to_load() const {
  const bool loaded = session_ != nullptr || shared_->is_loaded();
  return loaded ? 0 : weight_bytes();
}

std::uint64_t Runner::buffer_bytes(Graph graph) const {
  if (options_.plan.parallel.active()) parallelize_sequence(graph, options_.plan.parallel);
  return lay_out_buffers(graph).memory.arena_bytes;
}

void Runner::release() {
  session_.reset();
  model_.reset();
}

Runner Runner::instance(int threads) const {
  Runner other;
  other.name_ = name_;
  other.shared_ = shared_;
  other.options_ = options_;
  if (threads != 0) other.options_.plan.target.threads = threads;
  return other;
}

}  // namespace rondo
