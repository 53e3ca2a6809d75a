// The parts of a FLUX pipeline, each behind one function: text to embeddings, latents to velocity, latents to pixels.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/lane.h"
#include "models/autoencoder_kl.h"
#include "models/clip_text.h"
#include "models/flux_transformer.h"
#include "models/t5_encoder.h"
#include "models/tokenizers/clip_tokenizer.h"
#include "models/tokenizers/t5_tokenizer.h"
#include "pipelines/component_files.h"
#include "pipelines/runner.h"
#include "rondo/text_to_image.h"
#include "schedulers/flow_match_euler.h"

namespace rondo {

/// CLIP: prompt -> pooled embedding [1, hidden_size].
class ClipEncoder {
 public:
  ClipEncoder instance(int threads = 0) const { return {config_, tokenizer_, runner_.instance(threads)}; }
  ClipEncoder(const DiffusersFolder& folder, const ComputeOptions& options);
  Tensor encode(const std::string& prompt, const RunContext& context, std::vector<std::string>& notes);
  const ClipTextConfig& config() const { return config_; }
  const Runner& runner() const { return runner_; }
  Runner& runner() { return runner_; }

 private:
  ClipEncoder(const ClipTextConfig& config, std::shared_ptr<const ClipTokenizer> tokenizer, Runner runner)
      : config_(config), tokenizer_(std::move(tokenizer)), runner_(std::move(runner)) {}

  ClipTextConfig config_;
  std::shared_ptr<const ClipTokenizer> tokenizer_;
  Runner runner_;
};

/// T5: prompt -> embeddings [1, length, d_model].
class T5Encoder {
 public:
  T5Encoder instance(int threads = 0) const { return {config_, tokenizer_, runner_.instance(threads)}; }
  T5Encoder(const DiffusersFolder& folder, const ComputeOptions& options);
  Tensor encode(const std::string& prompt, std::int64_t length, const RunContext& context,
                std::vector<std::string>& notes);
  const T5EncoderConfig& config() const { return config_; }
  /// Tokens of a request that names none: the tokenizer's model_max_length, at most kLongestSequence.
  std::int64_t default_sequence() const;
  /// What a session's buffers would take, without making one.
  std::uint64_t buffer_bytes(std::int64_t length) const;
  /// What weights take of a device that has all layers' but two layers' in host memory.
  std::uint64_t least_weight_bytes() const;
  const Runner& runner() const { return runner_; }
  Runner& runner() { return runner_; }

 private:
  T5Encoder(const T5EncoderConfig& config, std::shared_ptr<const T5Tokenizer> tokenizer, Runner runner)
      : config_(config), tokenizer_(std::move(tokenizer)), runner_(std::move(runner)) {}

  T5EncoderConfig config_;
  std::shared_ptr<const T5Tokenizer> tokenizer_;
  Runner runner_;
};

struct PromptEmbeddings {
  Tensor pooled;
  Tensor sequence;
};

/// How this transformer's attention is quantised, on the plan's device, with the kernel that it names. Throws as
/// kv_cache_policy() and settle_kv_cache().
KvCachePolicy settle_attention(const FluxTransformerConfig& config, DType dtype, const PlanOptions& plan,
                               const KvCacheOptions& options);
/// The same for a transformer's config.json, whose own options stand behind these. Throws as stored_kv_cache_options()
/// and refuse_without_dtype() too.
KvCachePolicy settle_attention(const JsonConfig& transformer, DType dtype, const PlanOptions& plan,
                               const KvCacheOptions& options);

/// The denoiser: packed latents and a prompt -> velocity.
class FluxDenoiser {
 public:
  FluxDenoiser instance(int threads = 0) const { return {*this, runner_.instance(threads)}; }
  FluxDenoiser(const DiffusersFolder& folder, const ComputeOptions& options);
  const FluxTransformerConfig& config() const { return config_; }
  /// How attention is quantised for a request. Throws as settle_attention() and layered().
  KvCachePolicy kv_cache_for(const KvCacheOptions& request) const;
  /// Throws Unsupported, with the reason, where the attention kernel that is named cannot run a sequence of so many
  /// tokens as the request has it quantised.
  void check_attention(const KvCacheOptions& request, std::int64_t tokens) const;
  /// What a session's buffers would take, without making one.
  std::uint64_t buffer_bytes(std::int64_t prompts, std::int64_t text_tokens, std::int64_t rows,
                             std::int64_t columns) const;
  /// What weights take of a device that has all layers' but two layers' in host memory.
  std::uint64_t least_weight_bytes() const;
  /// Of one step for one prompt.
  double flops(std::int64_t text_tokens, std::int64_t rows, std::int64_t columns) const;
  /// `latents` [rows * columns, in_channels] float32 -> velocities [prompts, rows * columns, in_channels], one for each
  /// prompt, all in one run.
  std::vector<float> predict(std::span<const float> latents, std::int64_t rows, std::int64_t columns,
                             std::span<const PromptEmbeddings> prompts, float timestep, double guidance_scale,
                             const RunContext& context);
  const Runner& runner() const { return runner_; }
  Runner& runner() { return runner_; }

 private:
  FluxDenoiser(const FluxDenoiser& other, Runner runner)
      : config_(other.config_),
        plan_(other.plan_),
        kv_cache_(other.kv_cache_),
        settled_(other.settled_),
        runner_(std::move(runner)) {}

  FluxTransformerConfig config_;
  PlanOptions plan_;         // attention's kernel and device
  KvCacheOptions kv_cache_;  // of the pipeline and the model
  KvCachePolicy settled_;    // what they come to
  Runner runner_;
};

/// The VAE: packed latents -> picture.
class LatentDecoder {
 public:
  LatentDecoder instance(int threads = 0) const { return {config_, runner_.instance(threads)}; }
  LatentDecoder(const DiffusersFolder& folder, const ComputeOptions& options);
  const AutoencoderKlConfig& config() const { return config_; }
  /// With `tiled` those of one tile.
  std::uint64_t buffer_bytes(std::int64_t rows, std::int64_t columns, bool tiled) const;
  /// True when a picture of this size is more than one tile.
  bool has_tiles(std::int64_t rows, std::int64_t columns) const;
  /// Who decodes two tiles at a time, with half of the threads each.
  struct Pair {
    LatentDecoder& here;
    LatentDecoder& there;  // on the lane
    Lane& lane;
    RunContext context_there;
  };
  Image decode(std::span<const float> latents, std::int64_t rows, std::int64_t columns, bool tiled,
               const RunContext& context, const Pair* pair = nullptr);
  const Runner& runner() const { return runner_; }
  Runner& runner() { return runner_; }

 private:
  LatentDecoder(const AutoencoderKlConfig& config, Runner runner) : config_(config), runner_(std::move(runner)) {}
  /// Latents of a tile's side: the size that the model was trained at, at most 512 pixels.
  std::int64_t tile_side() const;
  struct Tile {
    std::int64_t top;
    std::int64_t left;
    std::int64_t height;
    std::int64_t width;
  };
  /// The picture of some of the packed latents, which are `columns` tokens wide.
  Tensor decode_tile(std::span<const float> latents, std::int64_t columns, const Tile& tile, const RunContext& context);
  /// Unpacked latents [height, width, channels] -> picture [.., .., 3] from -1 to 1.
  Tensor run(std::span<const float> latents, std::int64_t height, std::int64_t width, const RunContext& context);

  AutoencoderKlConfig config_;
  Runner runner_;
};

/// The most tokens that a request may ask for, as in diffusers.
constexpr std::int64_t kLongestSequence = 512;

/// Copies float32 values into a tensor of any compute dtype.
void write_values(std::span<const float> values, Tensor target);

}  // namespace rondo
