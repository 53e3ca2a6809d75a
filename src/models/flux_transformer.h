// FluxTransformer2DModel (Black Forest Labs, 2024), as diffusers defines it.
#pragma once

#include <array>
#include <cstdint>

#include "graph/builder.h"
#include "io/json_config.h"

namespace rondo {

struct FluxTransformerConfig {
  std::int64_t in_channels = 64;
  std::int64_t out_channels = 64;
  std::int64_t num_layers = 19;
  std::int64_t num_single_layers = 38;
  std::int64_t attention_head_dim = 128;
  std::int64_t num_attention_heads = 24;
  std::int64_t joint_attention_dim = 4096;
  std::int64_t pooled_projection_dim = 768;
  bool guidance_embeds = false;
  std::array<std::int64_t, 3> axes_dims_rope{16, 56, 56};

  std::int64_t inner_dim() const { return attention_head_dim * num_attention_heads; }
  /// With one attention each.
  std::int64_t layers() const { return num_layers + num_single_layers; }

  /// Reads config.json; absent keys take diffusers' defaults. Throws FileError for values that cannot be.
  static FluxTransformerConfig parse(const JsonConfig& config);
};

/// What a graph is built for.
struct FluxTransformerShape {
  std::int64_t batch = 1;  // of prompts
  std::int64_t text_tokens = 512;
  std::int64_t rows = 1;  // of image tokens: a token is a 2 x 2 patch of latents
  std::int64_t columns = 1;
  DType dtype = DType::f32;
  /// All prompts are about the same latents at the same timestep, as the branches of classifier-free guidance are: what
  /// does not depend on the text is computed once.
  bool shares_latents = false;

  std::int64_t latents_batch() const { return shares_latents ? 1 : batch; }
  std::int64_t image_tokens() const { return rows * columns; }
};

/// Inputs: hidden_states [B, rows * columns, in_channels] and encoder_hidden_states [B, text_tokens,
/// joint_attention_dim] in the compute dtype, pooled_projections [B, pooled_projection_dim] likewise, timestep [B]
/// float32 from 0 to 1000 and, with guidance_embeds, guidance [B] float32 times 1000. With shares_latents, B is 1 for
/// hidden_states, timestep and guidance.
/// Output: sample [B, rows * columns, out_channels].
Graph build_flux_transformer(const FluxTransformerConfig& config, const FluxTransformerShape& shape,
                             const WeightSource* weights);

}  // namespace rondo
