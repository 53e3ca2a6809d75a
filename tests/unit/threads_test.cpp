#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "attention/attention_tolerance.h"
#include "core/lane.h"
#include "core/threads.h"
#include "functional/random_forward.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/flux_transformer.h"
#include "rondo/error.h"

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

/// Sets an environment variable, or takes it away, for the length of a test.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value == nullptr ? unsetenv(name) : setenv(name, value, 1);
  }
  ~ScopedEnv() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }
  ScopedEnv(const ScopedEnv&) = delete;
  ScopedEnv& operator=(const ScopedEnv&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(Threads, DefaultFollowsTheEnvironment) {
  const ScopedEnv none("RONDO_THREADS", nullptr);
  {
    const ScopedEnv openmp("OMP_NUM_THREADS", nullptr);
    EXPECT_GE(default_threads(), 1);
  }
  for (const auto& [value, threads] : {std::pair("3", 3), {"5,2", 5}, {" 6 , 1", 6}}) {
    const ScopedEnv openmp("OMP_NUM_THREADS", value);
    EXPECT_EQ(default_threads(), threads) << value;
    const ScopedEnv ours("RONDO_THREADS", "7");
    EXPECT_EQ(default_threads(), 7) << "RONDO_THREADS goes first";
  }
  for (const char* value : {"many", "0", "-1", "3x", ","}) {
    const ScopedEnv openmp("OMP_NUM_THREADS", value);
    EXPECT_GE(default_threads(), 1) << value;
    const ScopedEnv ours("RONDO_THREADS", value);
    EXPECT_THROW(default_threads(), InvalidArgument) << value;
  }
}

#if defined(_OPENMP)

/// oneDNN leaves undone what threads that it did not get should have done: nothing may run on a smaller team than it
/// was prepared for.
TEST(Threads, ASmallerTeamIsKnownBeforeWork) {
  EXPECT_EQ(available_threads(4), 4);
  std::atomic<int> inside = 0;
  std::atomic<int> refused = 0;
#pragma omp parallel num_threads(2)
  {
    // A region inside another gets one thread, as OpenMP is set by default.
    inside += available_threads(4);
    try {
      const ThreadTeamScope team(4);
    } catch (const Error& error) {
      refused +=
          std::string(error.what()).find("4 threads are needed here and OpenMP gives 1") != std::string::npos ? 1 : 0;
    }
  }
  EXPECT_EQ(inside, 2);
  EXPECT_EQ(refused, 2);
  EXPECT_EQ(available_threads(4), 4) << "what was measured inside does not stay";
  const int threads = omp_get_max_threads();
  omp_set_dynamic(1);
  {
    const ThreadTeamScope team(3);
    EXPECT_EQ(omp_get_max_threads(), 3);
    EXPECT_EQ(omp_get_dynamic(), 0) << "a dynamic team could shrink between preparing and running";
  }
  EXPECT_EQ(omp_get_dynamic(), 1);
  EXPECT_EQ(omp_get_max_threads(), threads);
  omp_set_dynamic(0);
}

/// A forked child would wait for OpenMP threads that it does not have.
TEST(Threads, AForkedChildIsTold) {
  parallel_ranges(2, 100, 1, [](std::int64_t, std::int64_t) {});
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    int told = 0;
    const auto tell = [&](const std::function<void()>& work) {
      try {
        work();
      } catch (const Error& error) {
        told += std::string(error.what()).find("was forked after its threads had started") != std::string::npos ? 1 : 0;
      }
    };
    tell([] { const ThreadTeamScope team(2); });
    tell([] { parallel_ranges(2, 100, 1, [](std::int64_t, std::int64_t) {}); });
    tell([] { parallel_items(2, 100, [](std::int64_t, int) {}); });
    std::int64_t sum = 0;
    parallel_ranges(1, 100, 1, [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
    _exit(told == 3 && sum == 100 && available_threads(1) == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

#endif

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
