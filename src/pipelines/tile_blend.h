// Cutting a picture into overlapping tiles and putting them together without seams.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace rondo {

/// Where tiles of `tile` elements begin that cover `length` and overlap by at least `overlap`; one, at 0, when a single
/// tile is enough. The last ends at `length`. 0 <= overlap < tile.
std::vector<std::int64_t> tile_starts(std::int64_t length, std::int64_t tile, std::int64_t overlap);

/// A picture [height, width, channels] as the weighted mean of its tiles: each fades out over the middle half of
/// `overlap` pixels towards edges that are not the picture's own.
class TileBlend {
 public:
  TileBlend(std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t overlap);
  /// A tile [tile_height, tile_width, channels] whose first pixel is (top, left).
  void add(std::span<const float> tile, std::int64_t top, std::int64_t left, std::int64_t tile_height,
           std::int64_t tile_width);
  /// The picture, once tiles cover it.
  std::vector<float> finish();

 private:
  std::int64_t height_;
  std::int64_t width_;
  std::int64_t channels_;
  std::int64_t overlap_;
  std::vector<float> sums_;
  std::vector<float> weights_;
};

}  // namespace rondo
