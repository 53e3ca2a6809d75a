// A FLUX folder seen without running it: configs, weights and the graphs that would run.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "graph/model.h"
#include "models/autoencoder_kl.h"
#include "pipelines/component_files.h"
#include "rondo/text_to_image.h"

namespace rondo {

struct InspectedComponent {
  std::string name;
  std::string class_name;
  nlohmann::json config;
  std::shared_ptr<const WeightSource> weights;
  PlanOptions options;  // with how its weights are stored
  Graph graph;
  std::uint64_t resident_weight_bytes;
};

class FluxInspection {
 public:
  /// Throws FileError and Unsupported as the pipeline does.
  static FluxInspection open(const std::string& folder, const PipelineOptions& options);

  DType dtype() const { return dtype_; }
  Device device() const { return plan_.target.where(); }
  /// The picture's side that the VAE's config names.
  std::int64_t default_side() const { return vae_.sample_size; }
  /// Throws InvalidArgument for a side that the model cannot draw.
  std::vector<InspectedComponent> components(std::int64_t width, std::int64_t height) const;

 private:
  FluxInspection(DiffusersFolder folder, const PipelineOptions& options);

  DiffusersFolder folder_;
  PlanOptions plan_;
  DType dtype_;
  KvCacheOptions kv_cache_;
  AutoencoderKlConfig vae_;
};

}  // namespace rondo
