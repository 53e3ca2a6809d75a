// AutoencoderKL: the VAE that turns pictures into latents and back (Rombach et al., 2022), as diffusers defines it.
#pragma once

#include <vector>

#include "graph/builder.h"
#include "io/json_config.h"

namespace rondo {

struct AutoencoderKlConfig {
  std::int64_t in_channels = 3;
  std::int64_t out_channels = 3;
  std::int64_t latent_channels = 4;
  std::int64_t layers_per_block = 1;
  std::int64_t norm_num_groups = 32;
  std::vector<std::int64_t> block_out_channels{64};
  bool mid_block_add_attention = true;
  bool use_quant_conv = true;
  bool use_post_quant_conv = true;
  double scaling_factor = 0.18215;
  double shift_factor = 0;
  std::int64_t sample_size = 32;

  static AutoencoderKlConfig parse(const JsonConfig& config);

  /// Pixels a side of one latent.
  std::int64_t scale() const { return std::int64_t{1} << (block_out_channels.size() - 1); }
};

/// Input: latents [B, height, width, latent_channels], scaled and shifted back. Output: sample [B, scale * height,
/// scale * width, out_channels], -1 to 1 for black to white. Channels last.
Graph build_vae_decoder(const AutoencoderKlConfig& config, std::int64_t batch, std::int64_t height, std::int64_t width,
                        DType dtype, const WeightSource* weights);

/// Input: sample [B, height, width, in_channels]; sides are multiples of scale(). Output: moments [B, height / scale,
/// width / scale, 2 * latent_channels]: mean, then log variance.
Graph build_vae_encoder(const AutoencoderKlConfig& config, std::int64_t batch, std::int64_t height, std::int64_t width,
                        DType dtype, const WeightSource* weights);

}  // namespace rondo
