#include "pipelines/tile_blend.h"

#include <algorithm>

namespace rondo {
namespace {

/// How much pixel `at` of `length` in a tile counts that begins at `start` in a picture of `whole`.
float fade(std::int64_t at, std::int64_t length, std::int64_t start, std::int64_t whole, std::int64_t overlap) {
  // The outer quarter is left to the other tile: a decoder's convolutions see the tile's edge there.
  const std::int64_t margin = overlap / 4;
  const auto ramp = static_cast<float>(std::max<std::int64_t>(1, overlap - 2 * margin));
  const auto step = [&](std::int64_t from_edge) {
    return std::clamp((static_cast<float>(from_edge - margin) + 0.5F) / ramp, 0.0F, 1.0F);
  };
  float weight = 1;
  if (start > 0) weight = std::min(weight, step(at));
  if (start + length < whole) weight = std::min(weight, step(length - 1 - at));
  return weight;
}

}  // namespace

std::vector<std::int64_t> tile_starts(std::int64_t length, std::int64_t tile, std::int64_t overlap) {
  std::vector<std::int64_t> starts{0};
  while (starts.back() + tile < length) starts.push_back(std::min(starts.back() + tile - overlap, length - tile));
  return starts;
}

TileBlend::TileBlend(std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t overlap)
    : height_(height),
      width_(width),
      channels_(channels),
      overlap_(overlap),
      sums_(static_cast<std::size_t>(height * width * channels)),
      weights_(static_cast<std::size_t>(height * width)) {}

void TileBlend::add(std::span<const float> tile, std::int64_t top, std::int64_t left, std::int64_t tile_height,
                    std::int64_t tile_width) {
  for (std::int64_t y = 0; y < tile_height; ++y) {
    const float across = fade(y, tile_height, top, height_, overlap_);
    for (std::int64_t x = 0; x < tile_width; ++x) {
      const float weight = across * fade(x, tile_width, left, width_, overlap_);
      const std::int64_t pixel = (top + y) * width_ + left + x;
      weights_[static_cast<std::size_t>(pixel)] += weight;
      for (std::int64_t c = 0; c < channels_; ++c) {
        sums_[static_cast<std::size_t>(pixel * channels_ + c)] +=
            weight * tile[static_cast<std::size_t>((y * tile_width + x) * channels_ + c)];
      }
    }
  }
}

std::vector<float> TileBlend::finish() {
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] /= weights_[i / static_cast<std::size_t>(channels_)];
  return std::move(sums_);
}

}  // namespace rondo
