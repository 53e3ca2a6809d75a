#include "rondo/text_to_image.h"

#include <fmt/format.h>

#include "backends/packed_cache.h"
#include "core/env.h"
#include "core/text.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/kv_cache_options.h"
#include "pipelines/plan_options.h"
#include "pipelines/ranks.h"
#include "rondo/error.h"
#include "rondo/version.h"

namespace rondo {
namespace {

/// What all ranks of a run must have alike to compute the same.
std::vector<AgreedValue> values_of(const DiffusersFolder& folder, const ComputeOptions& options) {
  const PlanOptions& plan = options.plan;
  return {{"version", fmt::format("{} ({})", version(), commit())},
          {"model", fingerprint(folder)},
          {"dtype", std::string(dtype_name(options.dtype))},
          {"parallel", fmt::format("{}{}{}", plan.parallel.degrees.to_string(),
                                   plan.parallel.replicates_text ? ", text on every rank" : "",
                                   wire_text(plan.parallel.ring_wire))},
          {"passes", plan.passes.to_string()},
          {"attention-backend", plan.attention.backend},
          {"quantize", plan.quantization.to_string()},
          {"kv-cache", to_text(options.kv_cache)},
          {"memory-limit", options.memory_limit ? human_bytes(*options.memory_limit) : "unset"},
          {"cfg-fusion", std::to_string(static_cast<int>(options.cfg_fusion))},
          {"vae-tiling", std::to_string(static_cast<int>(options.vae_tiling))}};
}

}  // namespace

class TextToImagePipeline::Implementation {
 public:
  Implementation(const DiffusersFolder& folder, const ComputeOptions& options)
      : options_(options), flux_(folder, options) {}
  Implementation(const ComputeOptions& options, FluxPipeline flux) : options_(options), flux_(std::move(flux)) {}
  const ComputeOptions& options() const { return options_; }
  FluxPipeline& flux() { return flux_; }
  const FluxPipeline& flux() const { return flux_; }

 private:
  ComputeOptions options_;
  FluxPipeline flux_;
};

TextToImagePipeline::TextToImagePipeline(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}
TextToImagePipeline::TextToImagePipeline(TextToImagePipeline&&) noexcept = default;
TextToImagePipeline& TextToImagePipeline::operator=(TextToImagePipeline&&) noexcept = default;
TextToImagePipeline::~TextToImagePipeline() = default;

TextToImagePipeline TextToImagePipeline::open(const std::string& folder, const PipelineOptions& options) {
  ComputeOptions compute = compute_options(options);
  compute.cfg_fusion = options.cfg_fusion;
  compute.vae_tiling = options.vae_tiling;
  compute.layerwise_offload = options.layerwise_offload;
  // Weights that come and go would leave steps unrecorded.
  if (options.cuda_graph == CudaGraph::on) compute.layerwise_offload = LayerwiseOffload::off;
  compute.trace = options.trace;
  compute.lanes = options.lanes;
  compute.memory_limit = options.memory_limit;
  const std::string cache = options.weight_cache.value_or(env_value("RONDO_WEIGHT_CACHE").value_or(""));
  if (!cache.empty()) compute.weight_cache = std::make_shared<PackedWeightCache>(cache, options.weight_cache_limit);
  if (options.lanes == Lanes::two && compute.plan.target.threads < 2)
    throw InvalidArgument("lanes: 2 are asked for and there is 1 thread; each lane needs one");
  const Ranks ranks(compute.groups, compute.plan.target.device.get());
  if (!ranks.alone() && options.lanes == Lanes::two)
    throw Unsupported("lanes: 2 are asked for in a run of several ranks; allowed is 1");
  const auto files = DiffusersFolder::open(folder);
  if (!ranks.alone()) ranks.require_same(values_of(files, compute));  // reads samples of every file
  return TextToImagePipeline(std::make_unique<Implementation>(files, compute));
}

TextToImagePipeline TextToImagePipeline::instance() const {
  return TextToImagePipeline(
      std::make_unique<Implementation>(implementation_->options(), implementation_->flux().instance()));
}

Device TextToImagePipeline::device() const { return implementation_->options().plan.target.where(); }
DType TextToImagePipeline::dtype() const { return implementation_->options().dtype; }
std::vector<std::string> TextToImagePipeline::rank_groups() const {
  const ComputeOptions& options = implementation_->options();
  if (options.groups == nullptr) return {};
  std::vector<std::string> lines = options.groups->describe();
  if (!options.messages.empty()) lines.push_back(options.messages);
  return lines;
}
int TextToImagePipeline::threads() const { return implementation_->options().plan.target.threads; }

ResolvedTextToImageRequest TextToImagePipeline::resolve(const TextToImageRequest& request) const {
  if (!request.prompt) throw InvalidArgument("prompt: none is given");
  return implementation_->flux().resolve(request);
}

RunReport TextToImagePipeline::generate(const ResolvedTextToImageRequest& request,
                                        const std::function<void(GeneratedImage&&)>& deliver,
                                        const RunObserver& observer) {
  return implementation_->flux().generate(request, deliver, observer);
}

}  // namespace rondo
