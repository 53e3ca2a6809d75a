// Steps that a device records and does as one: they give what they give one by one, bit for bit. On the device that
// RONDO_TEST_DEVICE names, where it records.
#include "graph/recorded_steps.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "backends/devices.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/layers.h"
#include "rondo/error.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr int kNativeStep = 5;

Graph two_linears() {
  GraphBuilder b;
  const Scope root(b, DType::f32);
  const ValueId x = b.input("x", {{2, 5, 32}, DType::f32, {}});
  const ValueId hidden = activation(b, linear(root / "a", x, 64), ActivationKind::silu);
  b.output("y", add(b, linear(root / "b", hidden, 32), x));
  return b.finish();
}

class OnDeviceRecorded : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device().is_cpu()) GTEST_SKIP() << "no device is named";
    if (const auto refusal = test_target(1).device->runtime().refuse_recording()) GTEST_SKIP() << *refusal;
    // Products in 8 bits ask for memory while they run, and one step runs without them.
    options_.quantization.format = LinearFormat::w8a8;
    options_.quantization.skip_steps = {kNativeStep};
    options_.target = test_target(1);
    recorded_ = std::make_unique<Session>(model_.plan("recorded", options_, two_linears));
    options_.target.recording = PlanTarget::Recording::never;
    plain_ = std::make_unique<Session>(model_.plan("plain", options_, two_linears));
  }

  static Tensor run(Session& session, int step, std::uint32_t seed) {
    const Tensor noise = random_tensor({2, 5, 32}, DType::f32, seed);
    Tensor x = session.input("x");
    std::copy_n(noise.as<std::byte>(), noise.bytes(), x.as<std::byte>());
    RunContext context;
    context.step = step;
    session.run(context);
    return session.output("y").dense_copy();
  }
  void expect_same(int step) {
    const Tensor wanted = run(*plain_, step, ++seed_);
    const Tensor given = run(*recorded_, step, seed_);
    EXPECT_TRUE(std::equal(given.as<std::byte>(), given.as<std::byte>() + given.bytes(), wanted.as<std::byte>()))
        << "step " << step << ", run " << seed_ << ": " << recorded_->recorded_to_string();
  }

  Model model_{std::make_shared<const RandomWeights>(two_linears())};
  PlanOptions options_;
  std::unique_ptr<Session> recorded_;
  std::unique_ptr<Session> plain_;
  std::uint32_t seed_ = 0;
};

TEST_F(OnDeviceRecorded, GiveWhatEachGives) {
  EXPECT_EQ(plain_->recorded_to_string(), "");
  for (const int step : {0, 1, 2}) expect_same(step);
  EXPECT_EQ(recorded_->recorded_to_string(), "1 recorded");
  for (int i = 0; i < 3; ++i) expect_same(kNativeStep);
  EXPECT_EQ(recorded_->recorded_to_string(), "2 recorded");
  for (const int step : {0, kNativeStep, 1}) expect_same(step);
  EXPECT_EQ(recorded_->recorded_to_string(), "2 recorded");
}

TEST_F(OnDeviceRecorded, AreForgottenWithTheMemoryThatTheyUse) {
  for (const int step : {0, 1, 2}) expect_same(step);
  options_.target.device->memory().release_cached();
  // What comes next has that memory.
  const Tensor others = random_tensor({1 << 20}, DType::f32, 1).to(test_device());
  for (const int step : {3, 4}) expect_same(step);
  EXPECT_EQ(recorded_->recorded_to_string(), "1 recorded, 1 times anew");
  EXPECT_EQ(relative_error(others.to(Device{}), random_tensor({1 << 20}, DType::f32, 1)), 0);
}

TEST_F(OnDeviceRecorded, NobodyWaitsForTheDeviceMeanwhile) {
  const DeviceWork work(options_.target.device);
  CachingAllocator& memory = options_.target.device->memory();
  RecordedSteps steps(work, true);
  std::thread other;
  std::atomic<bool> waits = false;
  std::string failure = "did not end";
  steps.run({0, {}}, [] {});
  steps.run({0, {}}, [&] {
    if (other.joinable()) return;  // given once more, as the memory went before the launch
    other = std::thread([&] {
      waits = true;
      failure = message_of([&] { memory.release_cached(); });
    });
    while (!waits) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    memory.allocate(1 << 20, &work.stream());  // goes on although the other waits
  });
  other.join();
  EXPECT_EQ(failure, "(no error)");
  // What was recorded held memory that went then: it is recorded anew.
  steps.run({0, {}}, [] {});
  EXPECT_EQ(steps.to_string(), "1 recorded, 1 times anew");
}

TEST_F(OnDeviceRecorded, WhatFindsNoMemoryIsRecordedLater) {
  const DeviceWork work(options_.target.device);
  CachingAllocator& memory = options_.target.device->memory();
  RecordedSteps steps(work, true);
  bool is_short = false;
  const auto give = [&] {
    if (is_short) memory.allocate(std::size_t{1} << 50, &work.stream());
  };
  steps.run({0, {}}, give);
  is_short = true;
  EXPECT_THROW(steps.run({0, {}}, give), DeviceError);  // as it is without recording
  is_short = false;
  steps.run({0, {}}, give);
  EXPECT_EQ(steps.to_string(), "1 recorded");
}

TEST_F(OnDeviceRecorded, ASessionThatIsWatchedGivesStepByStep) {
  for (const int step : {0, 1, 2}) expect_same(step);
  std::vector<double> times;
  RunContext context;
  context.step_ms = &times;
  recorded_->run(context);
  EXPECT_EQ(times.size(), recorded_->plan().steps().size());
  expect_same(3);
}

TEST_F(OnDeviceRecorded, WhatCannotBeRecordedIsGivenEachTime) {
  const DeviceWork work(options_.target.device);
  RecordedSteps steps(work, false);
  int calls = 0;
  bool first = true;  // of a run: given in vain where it is recorded
  const auto give = [&] {
    ++calls;
    if (std::exchange(first, false) && calls > 1) throw DeviceError("device: not like this");
  };
  const auto run = [&](RecordedSteps& of) {
    first = true;
    of.run({0, {}}, give);
  };
  constexpr int kTries = 8;
  for (int i = 0; i < 1 + kTries; ++i) run(steps);
  EXPECT_EQ(calls, 1 + 2 * kTries);
  const auto plainly = [&] { ++calls; };
  steps.run({0, {}}, plainly);
  EXPECT_EQ(calls, 2 + 2 * kTries);  // no more of it
  EXPECT_EQ(steps.to_string(), "0 recorded, one not: device: not like this");
  RecordedSteps required(work, true);
  calls = 0;
  for (int i = 0; i < kTries; ++i) run(required);
  EXPECT_NE(message_of([&] { run(required); }).find("steps are not recorded: device: not like this"),
            std::string::npos);
  // What fails anyhow is told, and leaves the stream as it was.
  EXPECT_THROW(steps.run({1, {}}, [] { throw DeviceError("device: lost"); }), DeviceError);
  expect_same(0);
}

TEST_F(OnDeviceRecorded, ACancelledRecordingIsMadeAgain) {
  const DeviceWork work(options_.target.device);
  RecordedSteps steps(work, true);
  steps.run({0, {}}, [] {});
  EXPECT_THROW(steps.run({0, {}}, [] { throw Cancelled("run: cancelled"); }), Cancelled);
  steps.run({0, {}}, [] {});
  EXPECT_EQ(steps.to_string(), "1 recorded");
}

}  // namespace
}  // namespace rondo::test
