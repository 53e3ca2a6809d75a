#include "rondo/text_to_image.h"

#include "backends/packed_cache.h"
#include "core/env.h"
#include "pipelines/flux_pipeline.h"
#include "pipelines/plan_options.h"
#include "rondo/error.h"

namespace rondo {
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
  compute.trace = options.trace;
  compute.lanes = options.lanes;
  compute.memory_limit = options.memory_limit;
  const std::string cache = options.weight_cache.value_or(env_value("RONDO_WEIGHT_CACHE").value_or(""));
  if (!cache.empty()) compute.weight_cache = std::make_shared<PackedWeightCache>(cache, options.weight_cache_limit);
  if (options.lanes == Lanes::two && compute.plan.threads < 2)
    throw InvalidArgument("lanes: 2 are asked for and there is 1 thread; each lane needs one");
  return TextToImagePipeline(std::make_unique<Implementation>(DiffusersFolder::open(folder), compute));
}

TextToImagePipeline TextToImagePipeline::instance() const {
  return TextToImagePipeline(
      std::make_unique<Implementation>(implementation_->options(), implementation_->flux().instance()));
}

DType TextToImagePipeline::dtype() const { return implementation_->options().dtype; }
int TextToImagePipeline::threads() const { return implementation_->options().plan.threads; }

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
