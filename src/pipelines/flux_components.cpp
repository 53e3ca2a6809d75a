#include "pipelines/flux_components.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "backends/attention_backends.h"
#include "core/float_formats.h"
#include "models/layers.h"
#include "pipelines/kv_cache_options.h"
#include "pipelines/tile_blend.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// A 2 x 2 patch of latents is one token of the transformer.
constexpr std::int64_t kPatch = 2;

void check_vocabulary(std::int32_t largest, std::int64_t vocabulary, const DiffusersFolder& folder,
                      const char* tokenizer) {
  if (largest >= vocabulary) {
    throw FileError(fmt::format("{}: has ids up to {}; the text encoder's vocab_size is {}",
                                folder.component(tokenizer).string(), largest, vocabulary));
  }
}

void note_truncation(std::vector<std::string>& notes, const char* encoder, std::int64_t length) {
  notes.push_back(fmt::format("{}: the prompt is longer than {} tokens; the rest is cut off", encoder, length));
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

/// What to say where a component computes values that are not finite.
std::string why_not_finite(const char* component, DType dtype) {
  return fmt::format("the weights of {} are damaged{}", component,
                     dtype == DType::f32 ? " or do not fit their config"
                                         : ", do not fit their config or overflow; dtype float32 tells which");
}

/// An encoder's result in its dtype. Throws Error where it is not finite: the picture would not be either.
Tensor finite_embedding(const Tensor& output, DType dtype, const char* component) {
  const Tensor values = output.to_float32();
  if (!all_finite({values.as<float>(), static_cast<std::size_t>(values.elements())}))
    throw Error(fmt::format("encode prompt: the embeddings are not finite; {}", why_not_finite(component, dtype)));
  return output.to(dtype);
}

/// A layer's attention, for as many tokens as may be.
AttentionProblem attention_problem(const FluxTransformerConfig& config, DType dtype, const PlanOptions& plan) {
  AttentionProblem layer;
  layer.heads = layer.key_heads = config.num_attention_heads;
  layer.head_dim = layer.value_dim = config.attention_head_dim;
  layer.dtype = dtype;
  layer.device = plan.target.where();
  layer.lse = plan.parallel.degrees.ring > 1;  // a hop of the ring returns it
  return layer;
}

}  // namespace

void write_values(std::span<const float> values, Tensor target) {
  if (target.dtype() == DType::f32) {
    std::copy(values.begin(), values.end(), target.as<float>());
  } else {
    std::transform(values.begin(), values.end(), target.as<std::uint16_t>(), float_to_bf16);
  }
}

ClipEncoder::ClipEncoder(const DiffusersFolder& folder, const ComputeOptions& options)
    : config_(ClipTextConfig::parse(folder.config("text_encoder"))),
      tokenizer_(std::make_shared<const ClipTokenizer>(ClipTokenizer::load(folder.component("tokenizer")))),
      runner_("text_encoder", folder, options) {
  check_vocabulary(tokenizer_->largest_id(), config_.vocab_size, folder, "tokenizer");
  const std::array graphs{build_clip_text(config_, 1, 2, options.dtype, &runner_.source())};
  refuse_unknown_tensors(runner_.source(), graphs, is_harmless_clip_tensor);
}

Tensor ClipEncoder::encode(const std::string& prompt, const RunContext& context, std::vector<std::string>& notes) {
  const std::int64_t length = std::min(tokenizer_->max_length(), config_.max_position_embeddings);
  const ClipTokenizer::Encoding encoding = tokenizer_->encode(prompt, length);
  if (encoding.truncated) note_truncation(notes, "text_encoder", length);
  Session& session = runner_.session(fmt::format("clip {}", length), [&] {
    return build_clip_text(config_, 1, length, runner_.dtype(), &runner_.source());
  });
  std::copy(encoding.ids.begin(), encoding.ids.end(), session.input("input_ids").as<std::int32_t>());
  *session.input("pooled_position").as<std::int32_t>() =
      static_cast<std::int32_t>(config_.pooled_position(encoding.ids));
  runner_.run(context);
  return finite_embedding(session.output("pooler_output"), runner_.dtype(), "text_encoder");
}

T5Encoder::T5Encoder(const DiffusersFolder& folder, const ComputeOptions& options)
    : config_(T5EncoderConfig::parse(folder.config("text_encoder_2"))),
      tokenizer_(std::make_shared<const T5Tokenizer>(T5Tokenizer::load(folder.component("tokenizer_2")))),
      runner_("text_encoder_2", folder, options) {
  check_vocabulary(tokenizer_->largest_id(), config_.vocab_size, folder, "tokenizer_2");
  const std::array graphs{build_t5_encoder(config_, 1, 1, options.dtype, &runner_.source())};
  refuse_unknown_tensors(runner_.source(), graphs, is_harmless_t5_tensor);
}

std::int64_t T5Encoder::default_sequence() const {
  return std::min(kLongestSequence, tokenizer_->max_length(kLongestSequence));
}

std::uint64_t T5Encoder::buffer_bytes(std::int64_t length) const {
  return runner_.buffer_bytes(build_t5_encoder(config_, 1, length, runner_.dtype(), nullptr));
}

std::uint64_t T5Encoder::least_weight_bytes() const {
  return runner_.least_weight_bytes(build_t5_encoder(config_, 1, 1, runner_.dtype(), nullptr));
}

Tensor T5Encoder::encode(const std::string& prompt, std::int64_t length, const RunContext& context,
                         std::vector<std::string>& notes) {
  const T5Tokenizer::Encoding encoding = tokenizer_->encode(prompt, length);
  if (encoding.truncated) note_truncation(notes, "text_encoder_2", length);
  // A sentinel such as <extra_id_0> may stand in the text, while the model has no row for it.
  const std::int32_t largest = *std::max_element(encoding.ids.begin(), encoding.ids.end());
  if (largest >= config_.vocab_size) {
    throw InvalidArgument(fmt::format("prompt: holds the token {}, but the text encoder's vocab_size is {}", largest,
                                      config_.vocab_size));
  }
  Session& session = runner_.session(fmt::format("t5 {}", length), [&] {
    return build_t5_encoder(config_, 1, length, runner_.dtype(), &runner_.source());
  });
  std::copy(encoding.ids.begin(), encoding.ids.end(), session.input("input_ids").as<std::int32_t>());
  runner_.run(context);
  return finite_embedding(session.output("last_hidden_state"), runner_.dtype(), "text_encoder_2");
}

KvCachePolicy settle_attention(const FluxTransformerConfig& config, DType dtype, const PlanOptions& plan,
                               const KvCacheOptions& options) {
  return settle_kv_cache(kv_cache_policy(options), attention_problem(config, dtype, plan), config.layers(),
                         plan.attention);
}

KvCachePolicy settle_attention(const JsonConfig& transformer, DType dtype, const PlanOptions& plan,
                               const KvCacheOptions& options) {
  const FluxTransformerConfig config = FluxTransformerConfig::parse(transformer);
  const KvCacheOptions stored = stored_kv_cache_options(transformer, config.layers());
  refuse_without_dtype(options, stored);
  return settle_attention(config, dtype, plan, layered(options, stored));
}

FluxDenoiser::FluxDenoiser(const DiffusersFolder& folder, const ComputeOptions& options)
    : config_(FluxTransformerConfig::parse(folder.config("transformer"))),
      plan_(options.plan),
      kv_cache_(layered(options.kv_cache, stored_kv_cache_options(folder.config("transformer"), config_.layers()))),
      settled_(settle_attention(config_, options.dtype, plan_, kv_cache_)),
      runner_("transformer", folder, options) {
  runner_.set_kv_cache(settled_);
  if (options.plan.parallel.degrees.ring > 1) {
    // A hop of the ring needs a kernel that returns its LSE: one that cannot is refused here, by name.
    AttentionProblem hop = attention_problem(config_, options.dtype, plan_);
    hop.quantization = settled_.quantization;
    attention_registry().select(hop, plan_.attention);
  }
  const std::array graphs{build_flux_transformer(config_, {1, 1, 1, 1, options.dtype}, &runner_.source())};
  refuse_unknown_tensors(runner_.source(), graphs, [](const std::string&) { return false; });
}

KvCachePolicy FluxDenoiser::kv_cache_for(const KvCacheOptions& request) const {
  const bool says_something = request.dtype || request.skip_steps || request.skip_layers || request.rotate ||
                              request.smooth_k || request.fall_back_to_native;
  if (!says_something) return settled_;
  refuse_without_dtype(request, kv_cache_);
  return settle_attention(config_, runner_.dtype(), plan_, layered(request, kv_cache_));
}

void FluxDenoiser::check_attention(const KvCacheOptions& request, std::int64_t tokens) const {
  // Of several ranks each has its part of the problem, which its plan knows.
  if (plan_.attention.backend.empty() || plan_.parallel.active()) return;
  AttentionProblem layer = attention_problem(config_, runner_.dtype(), plan_);
  layer.batch = 1;
  layer.queries = layer.keys = tokens;
  layer.quantization = kv_cache_for(request).quantization;
  attention_registry().select(layer, plan_.attention);
}

std::uint64_t FluxDenoiser::buffer_bytes(std::int64_t prompts, std::int64_t text_tokens, std::int64_t rows,
                                         std::int64_t columns) const {
  const FluxTransformerShape shape{prompts, text_tokens, rows, columns, runner_.dtype(), prompts > 1};
  return runner_.buffer_bytes(build_flux_transformer(config_, shape, nullptr));
}

std::uint64_t FluxDenoiser::least_weight_bytes() const {
  return runner_.least_weight_bytes(build_flux_transformer(config_, {1, 1, 1, 1, runner_.dtype(), false}, nullptr));
}

double FluxDenoiser::flops(std::int64_t text_tokens, std::int64_t rows, std::int64_t columns) const {
  const auto d = static_cast<double>(config_.inner_dim());
  const auto tokens = static_cast<double>(text_tokens + rows * columns);
  // Of a block's twelve products of d x d, and its attention.
  return static_cast<double>(config_.layers()) * (24 * tokens * d * d + 4 * d * tokens * tokens);
}

std::vector<float> FluxDenoiser::predict(std::span<const float> latents, std::int64_t rows, std::int64_t columns,
                                         std::span<const PromptEmbeddings> prompts, float timestep,
                                         double guidance_scale, const RunContext& context) {
  const auto count = static_cast<std::int64_t>(prompts.size());
  const FluxTransformerShape shape{count, prompts[0].sequence.shape()[1], rows, columns, runner_.dtype(), count > 1};
  Session& session = runner_.session(fmt::format("flux {} x {} {}x{}", count, shape.text_tokens, rows, columns),
                                     [&] { return build_flux_transformer(config_, shape, &runner_.source()); });
  write_values(latents, session.input("hidden_states"));
  auto* sequences = session.input("encoder_hidden_states").as<std::byte>();
  auto* pooled = session.input("pooled_projections").as<std::byte>();
  for (const PromptEmbeddings& prompt : prompts) {
    sequences = std::copy_n(prompt.sequence.as<std::byte>(), prompt.sequence.bytes(), sequences);
    pooled = std::copy_n(prompt.pooled.as<std::byte>(), prompt.pooled.bytes(), pooled);
  }
  // diffusers divides by 1000 outside the transformer and multiplies inside, both in float32.
  *session.input("timestep").as<float>() = timestep / 1000.0F * 1000.0F;
  if (config_.guidance_embeds) *session.input("guidance").as<float>() = static_cast<float>(guidance_scale) * 1000.0F;
  runner_.run(context);
  const Tensor result = session.output("sample").to_float32();
  return {result.as<float>(), result.as<float>() + result.elements()};
}

LatentDecoder::LatentDecoder(const DiffusersFolder& folder, const ComputeOptions& options)
    : config_(AutoencoderKlConfig::parse(folder.config("vae"))), runner_("vae", folder, options) {
  const std::array graphs{
      build_vae_decoder(config_, 1, 1, 1, options.dtype, &runner_.source()),
      build_vae_encoder(config_, 1, config_.scale(), config_.scale(), options.dtype, &runner_.source())};
  refuse_unknown_tensors(runner_.source(), graphs, [](const std::string&) { return false; });
}

std::int64_t LatentDecoder::tile_side() const {
  constexpr std::int64_t kMostPixels = 512;
  return std::max<std::int64_t>(kPatch, std::min(config_.sample_size, kMostPixels) / config_.scale());
}

bool LatentDecoder::has_tiles(std::int64_t rows, std::int64_t columns) const {
  return kPatch * std::max(rows, columns) > tile_side();
}

std::uint64_t LatentDecoder::buffer_bytes(std::int64_t rows, std::int64_t columns, bool tiled) const {
  const std::int64_t most = tiled ? tile_side() : std::numeric_limits<std::int64_t>::max();
  Graph graph = build_vae_decoder(config_, 1, std::min(kPatch * rows, most), std::min(kPatch * columns, most),
                                  runner_.dtype(), nullptr);
  constexpr std::uint64_t kBytesPerPixel = 4 * sizeof(float) + 3;  // the blend and the picture
  const auto pixels = static_cast<std::uint64_t>(kPatch * rows * config_.scale() * kPatch * columns * config_.scale());
  return runner_.buffer_bytes(std::move(graph)) + pixels * kBytesPerPixel;
}

Tensor LatentDecoder::run(std::span<const float> latents, std::int64_t height, std::int64_t width,
                          const RunContext& context) {
  Session& session = runner_.session(fmt::format("vae {}x{}", height, width), [&] {
    return build_vae_decoder(config_, 1, height, width, runner_.dtype(), &runner_.source());
  });
  write_values(latents, session.input("latents"));
  runner_.run(context);
  return session.output("sample").to_float32();
}

Tensor LatentDecoder::decode_tile(std::span<const float> latents, std::int64_t columns, const Tile& tile,
                                  const RunContext& context) {
  const std::int64_t channels = config_.latent_channels;
  const auto scaling = static_cast<float>(config_.scaling_factor);
  const auto shift = static_cast<float>(config_.shift_factor);
  // A token holds channel by channel its patch, row by row.
  const auto latent = [&](std::int64_t y, std::int64_t x, std::int64_t c) {
    const std::int64_t token = y / kPatch * columns + x / kPatch;
    const std::int64_t source = (token * channels + c) * kPatch * kPatch + y % kPatch * kPatch + x % kPatch;
    return latents[static_cast<std::size_t>(source)] / scaling + shift;
  };
  std::vector<float> unpacked;
  unpacked.reserve(static_cast<std::size_t>(tile.height * tile.width * channels));
  for (std::int64_t y = tile.top; y < tile.top + tile.height; ++y) {
    for (std::int64_t x = tile.left; x < tile.left + tile.width; ++x) {
      for (std::int64_t c = 0; c < channels; ++c) unpacked.push_back(latent(y, x, c));
    }
  }
  return run(unpacked, tile.height, tile.width, context);
}

Image LatentDecoder::decode(std::span<const float> latents, std::int64_t rows, std::int64_t columns, bool tiled,
                            const RunContext& context, const Pair* pair) {
  const std::int64_t height = kPatch * rows;
  const std::int64_t width = kPatch * columns;
  const std::int64_t scale = config_.scale();
  const std::int64_t tile_height = tiled ? std::min(height, tile_side()) : height;
  const std::int64_t tile_width = tiled ? std::min(width, tile_side()) : width;
  const std::int64_t overlap = tile_side() / 4;
  std::vector<Tile> tiles;
  for (const std::int64_t top : tile_starts(height, tile_height, overlap)) {
    for (const std::int64_t left : tile_starts(width, tile_width, overlap))
      tiles.push_back({top, left, tile_height, tile_width});
  }
  constexpr std::int64_t kColours = 3;
  TileBlend blend(height * scale, width * scale, kColours, overlap * scale);
  const auto add = [&](const Tensor& sample, const Tile& tile) {
    blend.add({sample.as<float>(), static_cast<std::size_t>(sample.elements())}, tile.top * scale, tile.left * scale,
              tile.height * scale, tile.width * scale);
  };
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    if (pair == nullptr || i + 1 == tiles.size()) {
      add(decode_tile(latents, columns, tiles[i], context), tiles[i]);
      continue;
    }
    Tensor here;
    Tensor there;
    run_beside(
        pair->lane, [&] { here = pair->here.decode_tile(latents, columns, tiles[i], context); },
        [&] { there = pair->there.decode_tile(latents, columns, tiles[i + 1], pair->context_there); });
    add(here, tiles[i]);
    add(there, tiles[++i]);
  }
  const std::vector<float> picture = blend.finish();
  if (!all_finite(picture))
    throw Error(fmt::format("decode: the picture is not finite; {}", why_not_finite("vae", runner_.dtype())));
  Image image{static_cast<int>(width * scale), static_cast<int>(height * scale), {}};
  image.pixels.resize(picture.size());
  std::transform(picture.begin(), picture.end(), image.pixels.begin(), [](float value) {
    const float unit = std::clamp(value / 2.0F + 0.5F, 0.0F, 1.0F);
    return static_cast<std::uint8_t>(std::nearbyint(unit * 255.0F));
  });
  return image;
}

}  // namespace rondo
