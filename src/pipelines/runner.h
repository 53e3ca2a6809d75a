// A component of a pipeline that runs: its weights, its model, the session of the last shape.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "graph/model.h"
#include "graph/session.h"
#include "pipelines/component_files.h"
#include "rondo/text_to_image.h"

namespace rondo {

/// How a component runs.
struct ComputeOptions {
  CfgFusion cfg_fusion = CfgFusion::automatic;
  VaeTiling vae_tiling = VaeTiling::automatic;
  LayerwiseOffload layerwise_offload = LayerwiseOffload::automatic;
  Lanes lanes = Lanes::automatic;
  DType dtype = DType::f32;
  PlanOptions plan;
  KvCacheOptions kv_cache = {};
  std::optional<std::uint64_t> memory_limit = std::nullopt;
  /// Sees the transformer's nodes; empty for most.
  NodeTap tap = {};
  /// Whether reports have every node's times.
  bool trace = false;
  /// The ranks that share the work; null: this one is alone.
  std::shared_ptr<const ProcessGroups> groups = nullptr;
  /// Whether their messages go from device to device, in words; empty on the CPU.
  std::string messages = {};
  /// Where packed weights are kept on disk; null: nowhere.
  std::shared_ptr<PackedWeightCache> weight_cache = nullptr;
};

/// One model for all instances of a component: made when the first asks, freed when the last lets it go.
class SharedModel {
 public:
  SharedModel(std::shared_ptr<const WeightSource> weights, std::shared_ptr<PackedWeightCache> cache)
      : weights_(std::move(weights)), cache_(std::move(cache)) {}
  const WeightSource& source() const { return *weights_; }
  std::shared_ptr<Model> get();
  /// True while somebody holds it and its weights are in memory.
  bool is_loaded() const;
  /// What they take of a device's memory now.
  std::uint64_t device_bytes() const;
  /// Of the next model's plans.
  void set_weight_budget(std::optional<std::uint64_t> bytes);
  std::optional<std::uint64_t> weight_budget() const;

 private:
  std::shared_ptr<const WeightSource> weights_;
  std::shared_ptr<PackedWeightCache> cache_;
  mutable std::mutex mutex_;
  std::weak_ptr<Model> model_;
  std::optional<std::uint64_t> weight_budget_;
};

/// A model with the session of the last shape it ran at: the arena is kept as long as the shape stays.
class Runner {
 public:
  /// Opens the component's weights; how they are stored quantised goes into its options.
  Runner(std::string name, const DiffusersFolder& folder, const ComputeOptions& options);

  /// Another runner on the same weights and plans, with buffers of its own. Each may run on a thread of its own; with
  /// `threads` (0: as many as this one) its plans are made for so many.
  Runner instance(int threads = 0) const;

  const WeightSource& source() const { return shared_->source(); }
  DType dtype() const { return options_.dtype; }
  const KvCachePolicy& kv_cache() const { return options_.plan.kv_cache; }
  /// From the next session() on.
  void set_kv_cache(const KvCachePolicy& policy);
  /// The session for this key, made from `build` when the last one was for another.
  Session& session(const std::string& key, const std::function<Graph()>& build);
  /// Runs the last session.
  void run(RunContext context);
  RunReport::Component report() const;
  /// What weights take in the dtype that they run in, loaded or not.
  std::uint64_t weight_bytes() const;
  /// The same where all layers' weights but two layers' lie in host memory, of a device.
  std::uint64_t least_weight_bytes(const Graph& graph) const;
  /// Bytes that the first session will add: weights. 0 once there is one, here or in another instance.
  std::uint64_t bytes_to_load() const;
  /// Bytes of a device that the weights may take, for all instances; heeded when the first session is made. Unset: any.
  void set_weight_budget(std::optional<std::uint64_t> bytes) { shared_->set_weight_budget(bytes); }
  /// Of a device's memory: what the weights take now, which all instances share, and the buffers of this one.
  std::uint64_t device_weight_bytes() const { return shared_->device_bytes(); }
  std::uint64_t held_bytes() const { return session_ == nullptr ? 0 : session_->plan().arena_bytes(); }
  /// What this rank's buffers for a graph would take.
  std::uint64_t buffer_bytes(Graph graph) const;
  /// Gives back buffers and, once every instance did, plans and packed weights. The next session makes them anew.
  void release();

 private:
  Runner() = default;

  std::string name_;
  std::shared_ptr<SharedModel> shared_;
  std::shared_ptr<Model> model_;  // null until a session is asked for
  ComputeOptions options_;
  std::string key_;
  std::unique_ptr<Session> session_;
  RunReport::Component last_report_;
};

/// A component's weights. Layers that are stored quantised go into `policy`, unless it asks for something else.
std::shared_ptr<const WeightSource> open_weights(const DiffusersFolder& folder, const std::string& component,
                                                 QuantizationPolicy& policy);

/// About how many bytes the weights take in memory: in `dtype`, or as the policy quantises them.
std::uint64_t resident_weight_bytes(const WeightSource& weights, DType dtype, const QuantizationPolicy& policy);

}  // namespace rondo
