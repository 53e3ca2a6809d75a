#include "pipelines/tile_blend.h"

#include <gtest/gtest.h>

namespace rondo::test {
namespace {

TEST(TileBlend, StartsCoverTheLengthAndOverlap) {
  EXPECT_EQ(tile_starts(16, 16, 4), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(tile_starts(17, 16, 4), (std::vector<std::int64_t>{0, 1}));
  for (const std::int64_t length : {17, 28, 29, 40, 100, 128}) {
    const std::vector<std::int64_t> starts = tile_starts(length, 16, 4);
    EXPECT_EQ(starts.front(), 0);
    EXPECT_EQ(starts.back() + 16, length);
    for (std::size_t i = 1; i < starts.size(); ++i) {
      EXPECT_GT(starts[i], starts[i - 1]);
      EXPECT_LE(starts[i] - starts[i - 1], 12);
    }
  }
}

/// Tiles of one picture give that picture back; where two disagree the result goes from one to the other.
TEST(TileBlend, TilesBecomeThePicture) {
  constexpr std::int64_t kHeight = 21;
  constexpr std::int64_t kWidth = 30;
  const auto value = [](std::int64_t y, std::int64_t x, std::int64_t c) { return static_cast<float>(y * 100 + x + c); };
  TileBlend blend(kHeight, kWidth, 2, 4);
  for (const std::int64_t top : tile_starts(kHeight, 12, 4)) {
    for (const std::int64_t left : tile_starts(kWidth, 12, 4)) {
      std::vector<float> tile;
      for (std::int64_t i = 0; i < 12 * 12 * 2; ++i) tile.push_back(value(top + i / 24, left + i / 2 % 12, i % 2));
      blend.add(tile, top, left, 12, 12);
    }
  }
  const std::vector<float> picture = blend.finish();
  for (std::int64_t y = 0; y < kHeight; ++y) {
    for (std::int64_t x = 0; x < kWidth; ++x) {
      EXPECT_NEAR(picture[static_cast<std::size_t>((y * kWidth + x) * 2 + 1)], value(y, x, 1), 1e-3);
    }
  }
  TileBlend ramp(1, 20, 1, 4);
  ramp.add(std::vector<float>(12, 0.0F), 0, 0, 1, 12);
  ramp.add(std::vector<float>(12, 1.0F), 0, 8, 1, 12);
  const std::vector<float> row = ramp.finish();
  EXPECT_EQ(row[7], 0.0F);
  EXPECT_EQ(row[12], 1.0F);
  for (std::size_t x = 9; x < 12; ++x) EXPECT_GT(row[x], row[x - 1]);
}

}  // namespace
}  // namespace rondo::test
