#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "schedulers/flow_match_euler.h"
#include "schedulers/noise.h"

namespace rondo::test {
namespace {

TEST(Scheduler, OneStepGoesFromNoiseToPicture) {
  const auto scheduler = FlowMatchEulerScheduler::parse(JsonConfig(nlohmann::json::object(), "test"));
  const auto schedule = scheduler.schedule(1, 64);
  EXPECT_EQ(schedule.sigmas, (std::vector<float>{1.0F, 0.0F}));
  EXPECT_EQ(schedule.timesteps, std::vector<float>{1000.0F});
  std::vector<float> sample{2.0F};
  const std::vector<float> velocity{0.5F};
  euler_step(sample, velocity, 1.0F, 0.0F);
  EXPECT_EQ(sample[0], 1.5F);
}

TEST(Scheduler, OneStepHoldsWithEveryKey) {
  for (const char* config :
       {R"({"shift_terminal": 0.1})", R"({"use_karras_sigmas": true})", R"({"use_exponential_sigmas": true})",
        R"({"use_dynamic_shifting": true, "time_shift_type": "linear"})"}) {
    const auto scheduler = FlowMatchEulerScheduler::parse(JsonConfig(nlohmann::json::parse(config), "test"));
    for (const float sigma : scheduler.schedule(1, 64).sigmas) EXPECT_TRUE(std::isfinite(sigma)) << config;
  }
}

TEST(Noise, DependsOnTheSeed) {
  EXPECT_NE(seeded_normal_noise(1, 16), seeded_normal_noise(2, 16));
  EXPECT_TRUE(seeded_normal_noise(1, 0).empty());
}

}  // namespace
}  // namespace rondo::test
