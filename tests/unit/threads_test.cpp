#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "attention/attention_tolerance.h"
#include "core/lane.h"
#include "core/threads.h"
#include "functional/random_forward.h"
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

TEST(Lane, RunsBesideAndTellsTheFirstFailure) {
  Lane lane;
  for (int i = 0; i < 50; ++i) {
    int here = 0;
    int there = 0;
    run_beside(
        lane, [&] { here = i; }, [&] { there = i + 1; });
    EXPECT_EQ(here, i);
    EXPECT_EQ(there, i + 1);
  }
  const auto fail = [](const char* what) { throw std::runtime_error(what); };
  const auto told = [&](const std::function<void()>& here, const std::function<void()>& there) -> std::string {
    try {
      run_beside(lane, here, there);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(told([] {}, [&] { fail("there"); }), "there");
  EXPECT_EQ(told([&] { fail("here"); }, [] {}), "here");
  EXPECT_EQ(told([&] { fail("here"); }, [&] { fail("there"); }), "here");
  EXPECT_EQ(told([] {}, [] {}), "");  // failures do not stay
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

/// The public function from many threads at once, measuring while it goes.
TEST(ConcurrentAttention, CallsAgree) {
  const std::string folder = ::testing::TempDir() + "rondo-concurrent-attention";
  setenv("RONDO_CACHE_DIR", folder.c_str(), 1);
  const RandomAttention operands(parse_attention_problem("q=1x4x33x40 kv=70 lse=1"));
  AttentionOptions options;
  options.threads = 1;
  options.tune = TuneMode::on;
  const AttentionResult expected = forward(operands, options);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      // Half of them meet a problem that nobody has measured yet.
      const RandomAttention other(parse_attention_problem("q=1x2x17x24"), {static_cast<std::uint64_t>(i), 1, 0});
      for (int round = 0; round < 3; ++round) {
        const AttentionResult result = forward(i % 2 == 0 ? operands : other, options);
        if (i % 2 == 0) wrong += compare_attention(result, expected, {0, 0, 0}).failure.empty() ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  unsetenv("RONDO_CACHE_DIR");
  std::filesystem::remove_all(folder);
}

/// Native, quantised, turned and not, all at once: what each gives is what it gives alone.
TEST(ConcurrentAttention, PoliciesDoNotMix) {
  std::vector<RandomAttention> operands;
  std::vector<AttentionResult> expected;
  AttentionOptions options;
  options.threads = 1;
  options.tune = TuneMode::off;
  for (const char* policy :
       {"", " kv_cache=int8", " kv_cache=int8 rotation=1 smooth_k=1", " kv_cache=fp8 rotation=1"}) {
    operands.emplace_back(parse_attention_problem(std::string("q=1x2x40x72 kv=300 lse=1") + policy));
    expected.push_back(forward(operands.back(), options));
  }
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (std::size_t i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      for (std::size_t round = 0; round < 4; ++round) {
        const std::size_t which = (i + round) % operands.size();
        const AttentionResult result = forward(operands[which], options);
        wrong += compare_attention(result, expected[which], {0, 0, 0}).failure.empty() ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace rondo::test
