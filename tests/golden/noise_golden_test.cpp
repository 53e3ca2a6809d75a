#include <gtest/gtest.h>

#include "schedulers/noise.h"
#include "support/golden.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

TEST(NoiseGolden, EqualsTorchForEverySeedAndSize) {
  const Checkpoint golden = golden_tensors("noise");
  ASSERT_GT(golden.names().size(), 50U);
  for (const std::string& name : golden.names()) {
    const std::size_t slash = name.find('/');
    const std::uint64_t seed = std::stoull(name.substr(0, slash));
    std::vector<float> noise = seeded_normal_noise(seed, std::stoul(name.substr(slash + 1)));
    const Tensor mine = Tensor::borrow(noise.data(), {static_cast<std::int64_t>(noise.size())}, DType::f32);
    EXPECT_LT(relative_error(mine, golden.tensor(name)), 2e-6) << name;
  }
}

}  // namespace
}  // namespace rondo::test
