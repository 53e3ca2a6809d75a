#include "pipelines/flux_components.h"

#include <gtest/gtest.h>

#include "support/paths.h"

namespace rondo::test {
namespace {

TEST(FluxComponents, AReleasedEncoderLoadsAgain) {
  T5Encoder encoder(DiffusersFolder::open(emoji_folder()), {});
  const std::uint64_t weights = encoder.runner().bytes_to_load();
  EXPECT_GT(weights, 1'000'000U);
  std::vector<std::string> notes;
  const Tensor first = encoder.encode("red heart", 16, {}, notes);
  EXPECT_EQ(encoder.runner().bytes_to_load(), 0U);
  encoder.runner().release();
  EXPECT_EQ(encoder.runner().bytes_to_load(), weights);
  const Tensor again = encoder.encode("red heart", 16, {}, notes);
  EXPECT_TRUE(std::equal(first.as<float>(), first.as<float>() + first.elements(), again.as<float>()));
}

}  // namespace
}  // namespace rondo::test
