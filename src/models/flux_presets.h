// The shapes of published models, for benchmarks and plans without their weights.
#pragma once

#include <span>
#include <string_view>

#include "models/flux_transformer.h"

namespace rondo {

struct FluxPreset {
  std::string_view name;
  FluxTransformerConfig config;
};

/// flux.1-dev, flux.1-schnell and emoji, the bundled one.
std::span<const FluxPreset> flux_presets();

/// Throws InvalidArgument, naming `source` and the known ones.
FluxTransformerConfig find_flux_preset(std::string_view name, std::string_view source);

}  // namespace rondo
