#include "models/flux_presets.h"

#include <fmt/format.h>

#include <vector>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {

std::span<const FluxPreset> flux_presets() {
  static const std::vector<FluxPreset> all = [] {
    FluxTransformerConfig dev;
    dev.guidance_embeds = true;
    const FluxTransformerConfig schnell;
    FluxTransformerConfig emoji;
    emoji.in_channels = emoji.out_channels = 32;
    emoji.num_layers = 2;
    emoji.num_single_layers = 6;
    emoji.attention_head_dim = 64;
    emoji.num_attention_heads = 3;
    emoji.joint_attention_dim = 192;
    emoji.pooled_projection_dim = 128;
    emoji.axes_dims_rope = {16, 24, 24};
    return std::vector<FluxPreset>{{"flux.1-dev", dev}, {"flux.1-schnell", schnell}, {"emoji", emoji}};
  }();
  return all;
}

FluxTransformerConfig find_flux_preset(std::string_view name, std::string_view source) {
  std::vector<std::string_view> known;
  for (const FluxPreset& preset : flux_presets()) {
    if (preset.name == name) return preset.config;
    known.push_back(preset.name);
  }
  throw InvalidArgument(
      fmt::format("{}: '{}' is given; allowed are {}", source, printable(name), fmt::join(known, ", ")));
}

}  // namespace rondo
