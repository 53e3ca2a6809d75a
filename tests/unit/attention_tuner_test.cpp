// The tuner over kernels that only wait, and its file.
#include "attention/attention_tuner.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "rondo/error.h"
#include "rondo/log.h"

namespace rondo::test {
namespace {

namespace fs = std::filesystem;

/// Takes so many milliseconds, half with the tiling {64, 0}.
class Waiting final : public AttentionKernel {
 public:
  Waiting(std::string name, int ms, std::atomic<int>& runs) : name_(std::move(name)), ms_(ms), runs_(runs) {}
  std::string_view name() const override { return name_; }
  std::string_view description() const override { return ""; }
  AttentionRefusal supports(const AttentionProblem& problem) const override {
    return problem.causal ? AttentionRefusal("takes no causal problems") : std::nullopt;
  }
  std::vector<AttentionTiling> tilings(const AttentionProblem& /*problem*/) const override { return {{}, {64, 0}}; }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& /*problem*/, const AttentionTiling& tiling,
                                        int /*threads*/) const override {
    class Runner final : public AttentionRunner {
     public:
      Runner(int ms, std::atomic<int>& runs) : ms_(ms), runs_(runs) {}
      std::size_t scratch_bytes() const override { return 0; }
      void run(const AttentionCall& /*call*/, std::span<std::byte> /*scratch*/) const override {
        ++runs_;
        std::this_thread::sleep_for(std::chrono::milliseconds(ms_));
      }

     private:
      int ms_;
      std::atomic<int>& runs_;
    };
    return std::make_unique<Runner>(tiling.key_block == 64 ? ms_ / 2 : ms_, runs_);
  }

 private:
  std::string name_;
  int ms_;
  std::atomic<int>& runs_;
};

class AttentionTunerTest : public ::testing::Test {
 protected:
  AttentionTunerTest() {
    fs::remove_all(folder_);
    setenv("RONDO_CACHE_DIR", folder_.c_str(), 1);
    registry_.add(std::make_shared<Waiting>("slow", 80, slow_runs_));
    registry_.add(std::make_shared<Waiting>("fast", 40, fast_runs_));
    set_log_sink(LogLevel::warning, [this](LogLevel, std::string_view) { ++warnings_; });
  }
  ~AttentionTunerTest() override {
    set_log_sink(LogLevel::warning, nullptr);
    unsetenv("RONDO_CACHE_DIR");
    fs::remove_all(folder_);
  }
  static AttentionRequest with(TuneMode mode) { return {"", AttentionOptMode::runtime, mode}; }
  void write_file(const std::string& text) const {
    fs::create_directories(folder_);
    std::ofstream(folder_ / "attention-tuning.json") << text;
  }

  fs::path folder_ = fs::temp_directory_path() / ("rondo-tuner-test-" + std::to_string(getpid()));
  std::atomic<int> slow_runs_ = 0;
  std::atomic<int> fast_runs_ = 0;
  std::atomic<int> warnings_ = 0;
  AttentionRegistry registry_;
  AttentionProblem problem_ = parse_attention_problem("q=1x1x4x8");
};

TEST_F(AttentionTunerTest, MeasuresWhenItIsOnAndRemembers) {
  AttentionTuner tuner(registry_);
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "slow");  // the list's first
  EXPECT_EQ(slow_runs_, 0);
  const AttentionChoice tuned = tuner.choose(problem_, 1, with(TuneMode::on));
  EXPECT_EQ(tuned.kernel->name(), "fast");
  EXPECT_EQ(tuned.tiling, (AttentionTiling{64, 0}));
  const int runs = fast_runs_;
  EXPECT_GT(runs, 0);
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::on)).kernel->name(), "fast");
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "fast");
  EXPECT_EQ(fast_runs_, runs);
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::off)).kernel->name(), "slow");
  EXPECT_EQ(tuner.choose(problem_, 1, {"", AttentionOptMode::static_order, TuneMode::on}).kernel->name(), "slow");
  EXPECT_EQ(tuner.choose(problem_, 1, {"slow", AttentionOptMode::runtime, TuneMode::on}).kernel->name(), "slow");
  EXPECT_EQ(tuner.choose(problem_, 2, with(TuneMode::cached)).kernel->name(), "slow");  // another number of threads
  AttentionProblem masked = problem_;
  masked.mask = MaskKind::boolean;
  EXPECT_EQ(tuner.choose(masked, 1, with(TuneMode::cached)).kernel->name(), "slow");
  EXPECT_THROW(tuner.choose(problem_, 1, {"", AttentionOptMode::manual, {}}), InvalidArgument);
  EXPECT_THROW(parse_tune_mode("yes", "--tune"), InvalidArgument);
}

TEST_F(AttentionTunerTest, AnotherProcessFindsItInTheFile) {
  AttentionTuner(registry_).tune(problem_, 1);
  EXPECT_EQ(read_tuning_file().size(), 1U);
  const int runs = fast_runs_;
  AttentionTuner another(registry_);
  EXPECT_EQ(another.choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "fast");
  EXPECT_EQ(another.choose(problem_, 1, with(TuneMode::on)).kernel->name(), "fast");
  EXPECT_EQ(fast_runs_, runs);
  EXPECT_EQ(clear_tuning_file(), 1U);
  EXPECT_EQ(clear_tuning_file(), 0U);
  EXPECT_EQ(AttentionTuner(registry_).choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "slow");
}

TEST_F(AttentionTunerTest, ConcurrentCallersMeasureOnce) {
  AttentionTuner alone(registry_);
  alone.tune(problem_, 1);
  const int runs_of_one = fast_runs_;
  clear_tuning_file();
  fast_runs_ = 0;
  AttentionTuner tuner(registry_);
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] { EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::on)).kernel->name(), "fast"); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(fast_runs_, 2 * runs_of_one);  // as many as noise may make them, but not six times
}

TEST_F(AttentionTunerTest, ADamagedFileIsOneWarning) {
  for (const char* text : {"", "{", "[]", "{\"schema_version\": 2, \"entries\": {}}", "{\"schema_version\": 1}",
                           "{\"schema_version\": 1, \"entries\": {\"x\": 3}}",
                           "{\"schema_version\": 1, \"entries\": {\"x\": {\"kernel\": 3}}}"}) {
    write_file(text);
    warnings_ = 0;
    AttentionTuner tuner(registry_);
    EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "slow") << text;
    EXPECT_EQ(tuner.choose(problem_, 2, with(TuneMode::cached)).kernel->name(), "slow") << text;
    EXPECT_EQ(warnings_, 1) << text;
  }
  AttentionTuner(registry_).tune(problem_, 1);  // writes a good one over it
  EXPECT_EQ(read_tuning_file().size(), 1U);
}

TEST_F(AttentionTunerTest, AnEntryThatNoKernelOffersIsPassedOver) {
  AttentionTuner(registry_).tune(problem_, 1);
  TunedAttentions entries = read_tuning_file();
  const std::string key = entries.begin()->first;
  for (const TunedAttention& bad : {TunedAttention{"fast", {1 << 19, 0}, 1, 1}, TunedAttention{"gone", {}, 1, 1}}) {
    write_tuning_entry(key, bad);
    EXPECT_EQ(AttentionTuner(registry_).choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "slow");
  }
}

TEST_F(AttentionTunerTest, AFolderThatCannotBeWrittenKeepsResultsInMemory) {
  std::ofstream(folder_) << "a file where the folder should be";
  AttentionTuner tuner(registry_);
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::on)).kernel->name(), "fast");
  EXPECT_GE(warnings_, 1);
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::cached)).kernel->name(), "fast");
}

TEST_F(AttentionTunerTest, SpecialFilesDoNotBlock) {
  fs::create_directories(folder_);
  ASSERT_EQ(mkfifo((folder_ / "attention-tuning.json").c_str(), 0600), 0);
  AttentionTuner tuner(registry_);
  EXPECT_EQ(tuner.choose(problem_, 1, with(TuneMode::on)).kernel->name(), "fast");
  EXPECT_GE(warnings_, 1);
}

TEST_F(AttentionTunerTest, AProblemThatNobodyTakesIsRefused) {
  AttentionProblem causal = problem_;
  causal.causal = true;
  AttentionTuner tuner(registry_);
  EXPECT_THROW(tuner.choose(causal, 1, with(TuneMode::on)), Unsupported);
}

TEST(AttentionProblemText, IsReadBack) {
  for (const char* text : {"q=1x24x4608x128 kv=4608 dtype=bfloat16 mask=none",
                           "q=2x8x17x40 kv=129 dtype=float32 mask=boolean kv_heads=2 v_dim=8 mask_axes=bn layout=bnsd "
                           "scale=own causal=1 lse=1",
                           "q=2x8x17x40 kv=129 dtype=float16 mask=none varlen=1"}) {
    EXPECT_EQ(to_string(parse_attention_problem(text)), text);
  }
  for (const char* text : {"q=1x2x3x4 mask_axes=x", "q=1x2x3x4 layout=tnd", "q=1x2x3x4 scale=2", "q=1x2x3", "kv=3"}) {
    EXPECT_THROW(parse_attention_problem(text), InvalidArgument) << text;
  }
}

}  // namespace
}  // namespace rondo::test
