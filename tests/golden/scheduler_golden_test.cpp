#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "schedulers/flow_match_euler.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

TEST(SchedulerGolden, TablesEqualDiffusers) {
  const JsonConfig golden = JsonConfig::load(data_folder() / "scheduler.json");
  ASSERT_GT(golden.object()["rows"].size(), 20U);
  for (const auto& row : golden.object()["rows"]) {
    const auto scheduler = FlowMatchEulerScheduler::parse(JsonConfig(row["config"], "scheduler_config.json"));
    const auto schedule = scheduler.schedule(row["steps"].get<int>(), row["tokens"].get<std::int64_t>());
    const auto compare = [&](const std::vector<float>& mine, const nlohmann::json& theirs, double scale) {
      ASSERT_EQ(mine.size(), theirs.size()) << row["config"];
      for (std::size_t i = 0; i < mine.size(); ++i) {
        EXPECT_NEAR(static_cast<double>(mine[i]), theirs[i].get<double>(), 3e-7 * scale)
            << row["config"] << " entry " << i;
      }
    };
    compare(schedule.sigmas, row["sigmas"], 1);
    compare(schedule.timesteps, row["timesteps"], 1000);
  }
}

}  // namespace
}  // namespace rondo::test
