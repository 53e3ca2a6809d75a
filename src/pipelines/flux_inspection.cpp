#include "pipelines/flux_inspection.h"

#include "backends/compute_dtype.h"
#include "models/clip_text.h"
#include "models/flux_transformer.h"
#include "models/t5_encoder.h"
#include "models/tokenizers/t5_tokenizer.h"
#include "pipelines/flux_components.h"
#include "pipelines/plan_options.h"
#include "rondo/error.h"

namespace rondo {

FluxInspection::FluxInspection(DiffusersFolder folder, const PipelineOptions& options)
    : folder_(std::move(folder)),
      plan_(plan_options(options)),
      dtype_(resolve_compute_dtype(options.dtype, plan_.target.device.get())),
      kv_cache_(options.kv_cache),
      vae_(AutoencoderKlConfig::parse(folder_.config("vae"))) {}

FluxInspection FluxInspection::open(const std::string& folder, const PipelineOptions& options) {
  return {DiffusersFolder::open(folder), options};
}

std::vector<InspectedComponent> FluxInspection::components(std::int64_t width, std::int64_t height) const {
  const std::int64_t unit = 2 * vae_.scale();
  if (width < unit || height < unit || width % unit != 0 || height % unit != 0) {
    throw InvalidArgument(fmt::format("size: {} x {} is given; allowed are multiples of {}", width, height, unit));
  }
  std::vector<InspectedComponent> result;
  const auto add = [&](const char* name, const char* class_name, auto&& build) {
    const JsonConfig config = folder_.config(name);
    const bool is_transformer = std::string_view(name) == "transformer";
    PlanOptions options = is_transformer ? plan_ : options_of_other_parts(plan_);
    if (is_transformer) options.kv_cache = settle_attention(config, dtype_, plan_, kv_cache_);
    const std::shared_ptr<const WeightSource> weights = open_weights(folder_, name, options.quantization);
    Graph graph = build(config, *weights);
    const std::uint64_t bytes = resident_weight_bytes(*weights, dtype_, options.quantization);
    result.push_back({name, class_name, config.object(), weights, std::move(options), std::move(graph), bytes});
  };
  const std::int64_t text_tokens =
      std::min(kLongestSequence, T5Tokenizer::load(folder_.component("tokenizer_2")).max_length(kLongestSequence));
  add("text_encoder", "CLIPTextModel", [&](const JsonConfig& json, const WeightSource& weights) {
    const ClipTextConfig config = ClipTextConfig::parse(json);
    return build_clip_text(config, 1, config.max_position_embeddings, dtype_, &weights);
  });
  add("text_encoder_2", "T5EncoderModel", [&](const JsonConfig& json, const WeightSource& weights) {
    return build_t5_encoder(T5EncoderConfig::parse(json), 1, text_tokens, dtype_, &weights);
  });
  add("transformer", "FluxTransformer2DModel", [&](const JsonConfig& json, const WeightSource& weights) {
    return build_flux_transformer(FluxTransformerConfig::parse(json),
                                  {1, text_tokens, height / unit, width / unit, dtype_}, &weights);
  });
  add("vae", "AutoencoderKL", [&](const JsonConfig&, const WeightSource& weights) {
    return build_vae_decoder(vae_, 1, height / vae_.scale(), width / vae_.scale(), dtype_, &weights);
  });
  return result;
}

}  // namespace rondo
