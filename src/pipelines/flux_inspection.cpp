#include "pipelines/flux_inspection.h"

#include "backends/cpu/compute_dtype.h"
#include "models/clip_text.h"
#include "models/flux_transformer.h"
#include "models/t5_encoder.h"
#include "models/tokenizers/t5_tokenizer.h"
#include "pipelines/flux_components.h"
#include "rondo/error.h"

namespace rondo {
FluxInspection::FluxInspection(DiffusersFolder folder, DType dtype)
    : folder_(std::move(folder)), dtype_(dtype), vae_(AutoencoderKlConfig::parse(folder_.config("vae"))) {}

FluxInspection FluxInspection::open(const std::string& folder, std::optional<DType> dtype) {
  return {DiffusersFolder::open(folder), resolve_compute_dtype(dtype)};
}

std::vector<InspectedComponent> FluxInspection::components(std::int64_t width, std::int64_t height) const {
  const std::int64_t unit = 2 * vae_.scale();
  if (width < unit || height < unit || width % unit != 0 || height % unit != 0) {
    throw InvalidArgument(fmt::format("size: {} x {} is given; allowed are multiples of {}", width, height, unit));
  }
  std::vector<InspectedComponent> result;
  const auto add = [&](const char* name, const char* class_name, auto&& build) {
    const JsonConfig config = folder_.config(name);
    Checkpoint weights = Checkpoint::open(folder_.component(name));
    Graph graph = build(config, weights);
    const std::uint64_t bytes = weight_bytes_as(weights, dtype_);
    result.push_back({name, class_name, config.object(), std::move(weights), std::move(graph), bytes});
  };
  const std::int64_t text_tokens =
      std::min(kLongestSequence, T5Tokenizer::load(folder_.component("tokenizer_2")).max_length(kLongestSequence));
  add("text_encoder", "CLIPTextModel", [&](const JsonConfig& json, const Checkpoint& weights) {
    const ClipTextConfig config = ClipTextConfig::parse(json);
    return build_clip_text(config, 1, config.max_position_embeddings, dtype_, &weights);
  });
  add("text_encoder_2", "T5EncoderModel", [&](const JsonConfig& json, const Checkpoint& weights) {
    return build_t5_encoder(T5EncoderConfig::parse(json), 1, text_tokens, dtype_, &weights);
  });
  add("transformer", "FluxTransformer2DModel", [&](const JsonConfig& json, const Checkpoint& weights) {
    return build_flux_transformer(FluxTransformerConfig::parse(json),
                                  {1, text_tokens, height / unit, width / unit, dtype_}, &weights);
  });
  add("vae", "AutoencoderKL", [&](const JsonConfig&, const Checkpoint& weights) {
    return build_vae_decoder(vae_, 1, height / vae_.scale(), width / vae_.scale(), dtype_, &weights);
  });
  return result;
}

}  // namespace rondo
