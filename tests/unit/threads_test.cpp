#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "core/threads.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/flux_transformer.h"

namespace rondo::test {
namespace {

TEST(Threads, RangesCoverEverythingOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    for (const std::int64_t count : {0, 1, 5, 64, 1001}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      parallel_ranges(threads, count, 7, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (const auto& times : seen) EXPECT_EQ(times, 1);
    }
  }
}

TEST(Threads, DefaultIsAtLeastOne) { EXPECT_GE(default_threads(), 1); }

/// Sessions of one model on threads of their own: what ThreadSanitizer watches.
TEST(Threads, SessionsShareOneModel) {
  FluxTransformerConfig config;
  config.in_channels = config.out_channels = 8;
  config.num_layers = config.num_single_layers = 1;
  config.attention_head_dim = 8;
  config.num_attention_heads = 2;
  config.joint_attention_dim = 12;
  config.pooled_projection_dim = 10;
  config.axes_dims_rope = {2, 2, 4};
  const auto build = [&] { return build_flux_transformer(config, {1, 3, 2, 3, DType::f32}, nullptr); };
  Model model(std::make_shared<const RandomWeights>(build()));
  std::vector<std::vector<float>> results(3);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      Session session(model.plan("shared", PlanOptions{}, build));
      for (const NamedValue& input : session.plan().graph().inputs) {
        Tensor target = session.input(input.name);
        std::fill_n(target.as<float>(), target.elements(), 0.5F);
      }
      for (int i = 0; i < 3; ++i) session.run({});
      const Tensor sample = session.output("sample");
      result.assign(sample.as<float>(), sample.as<float>() + sample.elements());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  EXPECT_NE(results[0][0], 0.0F);
}

}  // namespace
}  // namespace rondo::test
