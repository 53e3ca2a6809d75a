// The device layer: names, the allocator, copies, placement, runs that fail. The last tests run on the device that
// RONDO_TEST_DEVICE names and are skipped on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "backends/devices.h"
#include "core/device_name.h"
#include "device/caching_allocator.h"
#include "device/copy_tensor.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "graph/weight_groups.h"
#include "models/layers.h"
#include "ops/layout.h"
#include "rondo/attention.h"
#include "rondo/error.h"
#include "rondo/operators.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

TEST(DeviceName, ThereAndBack) {
  for (const char* text : {"cpu", "cuda:0", "ascend:3"}) EXPECT_EQ(to_string(parse_device(text, "test")), text);
  EXPECT_EQ(to_string(parse_device("cuda", "test")), "cuda:0");
  for (const char* text :
       {"", "npu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:1", "ascend:1024", "cuda:99999999999"})
    EXPECT_NE(message_of([&] { parse_device(text, "test"); }).find("test: '"), std::string::npos) << text;
}

/// Counts what is asked of it; has room for `room` bytes.
class CountingRuntime final : public DeviceRuntime {
 public:
  explicit CountingRuntime(std::size_t room) : room_(room) {}
  ~CountingRuntime() override { EXPECT_TRUE(blocks_.empty()); }
  DeviceInfo info() const override { return {{DeviceKind::cuda, 0}, "counting", room_, room_ - used_}; }
  std::string physical_id() const override { return "0"; }
  bool has_bf16() const override { return true; }
  bool keeps_f32() const override { return true; }
  void* allocate(std::size_t bytes) override {
    if (used_ + bytes > room_) return nullptr;
    used_ += bytes;
    void* const memory = std::malloc(bytes);
    blocks_[memory] = bytes;
    return memory;
  }
  void release(void* memory) noexcept override {
    used_ -= blocks_.at(memory);
    blocks_.erase(memory);
    std::free(memory);
  }
  std::shared_ptr<void> allocate_pinned(std::size_t bytes) override { return {std::malloc(bytes), std::free}; }
  void synchronize() override { ++synchronized; }
  std::unique_ptr<DeviceStream> make_stream() override { return std::make_unique<Stream>(); }
  std::unique_ptr<DeviceEvent> make_event() override { return nullptr; }
  void copy(const RowCopy& rows, CopyKind /*kind*/, DeviceStream& /*stream*/) override {
    ++copies;
    for (std::size_t row = 0; row < rows.rows; ++row) {
      std::memcpy(static_cast<char*>(rows.to) + row * rows.to_pitch,
                  static_cast<const char*>(rows.from) + row * rows.from_pitch, rows.width);
    }
  }
  int synchronized = 0;
  int copies = 0;

 private:
  struct Stream final : DeviceStream {
    void synchronize() override {}
  };
  std::size_t room_;
  std::size_t used_ = 0;
  std::map<void*, std::size_t> blocks_;
};

TEST(CachingAllocator, KeepsBlocksForTheNextOfTheSameStream) {
  const auto runtime = std::make_shared<CountingRuntime>(std::size_t{1} << 20);
  const auto allocator = CachingAllocator::make(runtime, 0);
  const auto one = runtime->make_stream();
  const auto other = runtime->make_stream();
  void* const first = allocator->allocate(1000, one.get()).get();  // let go at once
  EXPECT_EQ(allocator->allocate(900, one.get()).get(), first);
  EXPECT_NE(allocator->allocate(900, other.get()).get(), first);
  const DeviceMemoryStatistics s = allocator->statistics();
  EXPECT_EQ(s.used_bytes, 0U);
  EXPECT_EQ(s.peak_used_bytes, 1024U);
  EXPECT_EQ(s.cached_bytes, 2048U);
  EXPECT_EQ(s.requests, 3U);
  EXPECT_EQ(s.requests_from_cache, 1U);
  allocator->release_cached(*one);
  EXPECT_EQ(allocator->statistics().cached_bytes, 1024U);
  EXPECT_EQ(allocator->allocate(0), nullptr);
}

TEST(CachingAllocator, GivesItsCacheBackBeforeItRefuses) {
  const auto runtime = std::make_shared<CountingRuntime>(8192);
  const auto allocator = CachingAllocator::make(runtime, 0);
  allocator->allocate(4096);
  const auto large = allocator->allocate(6144);  // fits only without what is cached
  EXPECT_EQ(runtime->synchronized, 1);           // work may have been using it
  EXPECT_EQ(allocator->statistics().cached_bytes, 0U);
  const std::string message = message_of([&] { allocator->allocate(4096); });
  EXPECT_TRUE(message.starts_with("cuda:0: out of memory: 4.1 kB are asked for; 6.14 kB are in use")) << message;
}

TEST(CachingAllocator, HoldsItsLimit) {
  const auto allocator = CachingAllocator::make(std::make_shared<CountingRuntime>(std::size_t{1} << 20), 4096);
  const auto held = allocator->allocate(3000);
  EXPECT_NE(message_of([&] { allocator->allocate(2000); }).find("the limit is 4.1 kB"), std::string::npos);
  EXPECT_NE(allocator->allocate(1000), nullptr);
}

TEST(CachingAllocator, ALeaseEndsWithTheStreamsBlocks) {
  const auto runtime = std::make_shared<CountingRuntime>(8192);
  const auto allocator = CachingAllocator::make(runtime, 0);
  const auto one = runtime->make_stream();
  const auto other = runtime->make_stream();
  const auto lease = allocator->lease(*one);
  EXPECT_EQ(allocator->lease(*one), lease);
  const auto holds = [&](std::uint64_t term) { return lease->within(term, [] {}); };
  std::uint64_t term = lease->term();
  allocator->allocate(4096, one.get());
  allocator->release_cached(*other);
  EXPECT_TRUE(holds(term));
  const auto large = allocator->allocate(6144, other.get());  // fits only without what is cached
  EXPECT_FALSE(holds(term));
  term = lease->term();
  EXPECT_TRUE(holds(term));
  allocator->release_cached(*one);
  EXPECT_FALSE(holds(term));
}

TEST(CopyTensor, EveryKindOfStrides) {
  CountingRuntime runtime(1);
  const auto stream = runtime.make_stream();
  const Tensor whole = random_tensor({4, 6, 8, 10}, DType::f32, 1);
  const auto expect_copied = [&](const Tensor& from, const Tensor& to, int copies) {
    runtime.copies = 0;
    copy_tensor(from, to, runtime, *stream);
    EXPECT_EQ(runtime.copies, copies) << from.shape().to_string() << from.strides().to_string();
    EXPECT_EQ(relative_error(to.dense_copy(), from.dense_copy()), 0);
  };
  expect_copied(whole, Tensor::zeros(whole.shape(), DType::f32), 1);
  const Tensor rows = whole.sliced(3, 2, 7);  // one gap, for all rows alike
  expect_copied(rows, Tensor::zeros(rows.shape(), DType::f32), 1);
  const Tensor block = whole.sliced(1, 1, 3).sliced(3, 0, 5);
  expect_copied(block, Tensor::zeros(block.shape(), DType::f32), 4);
  const Tensor turned = whole.transposed(0, 3);
  expect_copied(turned, Tensor::zeros(turned.shape(), DType::f32), 10 * 6 * 8);
  const Tensor repeated = whole.sliced(0, 0, 1).restrided({4, 6, 8, 10}, {0, 80, 10, 1});
  expect_copied(repeated, Tensor::zeros(repeated.shape(), DType::f32), 4);
}

class OnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device().is_cpu()) GTEST_SKIP() << "no device is named";
  }
};

/// Segments, a view of a weight, a constant, an output that is an input.
Graph graph_with_everything() {
  GraphBuilder b;
  const Scope root(b, DType::f32);
  b.begin_segment("first");
  const ValueId x = b.input("x", {{2, 5, 16}, DType::f32, {}});
  const ValueId table = b.weight("table", {4, 16}, DType::f32);
  const ValueId row = b.apply<ReshapeOp>({slice(b, table, 0, 1, 2)}, Shape{16});
  b.begin_segment("second");
  const ValueId sum = add(b, linear(root / "a", x, 16), row);
  const ValueId scaled = multiply(b, sum, b.constant(random_tensor({16}, DType::f32, 9)));
  b.output("y", activation(b, scaled, ActivationKind::silu));
  b.output("same", x);
  return b.finish();
}

TEST_F(OnDevice, PlacementKeepsTheGraph) {
  Graph graph = graph_with_everything();
  const auto device = open_device(test_device());
  const Placement placement = place_on_device(graph, *device, 1);
  EXPECT_EQ(placement.missing, std::vector<std::string>{});
  EXPECT_EQ(placement.nodes_on_cpu, 0);
  EXPECT_EQ(placement.copies_to_device, 1);
  EXPECT_EQ(placement.copies_to_cpu, 1);
  EXPECT_EQ(placement.bytes_to_device, 2 * 5 * 16 * sizeof(float));
  ASSERT_EQ(graph.segments.size(), 2U);
  EXPECT_EQ(graph.segments[0].end, graph.segments[1].begin);
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const ValueId output : graph.nodes[i].outputs)
      EXPECT_EQ(graph.values[static_cast<std::size_t>(output)].producer, static_cast<NodeId>(i));
  }
  for (const NamedValue& output : graph.outputs)
    EXPECT_TRUE(graph.values[static_cast<std::size_t>(output.value)].type.device.is_cpu());
}

Tensor run_once(Session& session, std::uint32_t seed) {
  const Tensor noise = random_tensor({2, 5, 16}, DType::f32, seed);
  Tensor x = session.input("x");
  std::copy_n(noise.as<std::byte>(), noise.bytes(), x.as<std::byte>());
  session.run({});
  return session.output("y").to_float32();
}

/// What a run that failed left under way must not end up in the next one's operands.
TEST_F(OnDevice, ARunAfterOneThatFailedIsRight) {
  if (test_device().kind != DeviceKind::ascend) GTEST_SKIP() << "faults are the simulator's";
  Model model(std::make_shared<const RandomWeights>(graph_with_everything()));
  PlanOptions options;
  const std::shared_ptr<const Plan> on_cpu = model.plan("cpu", options, graph_with_everything);
  options.target = test_target(1);
  Session session(model.plan("device", options, graph_with_everything));
  Session cpu(on_cpu);
  EXPECT_LE(relative_error(run_once(session, 1), run_once(cpu, 1)), 1e-5);
  for (const char* fault : {"aclrtMemcpyAsync=507899:2!", "aclnnAddmm=561003:1!", "aclnnSilu.run=361001:1!",
                            "aclrtSynchronizeStream=507018:1!", "aclrtMalloc=207001:1!"}) {
    setenv("ASCEND_SIMULATOR_FAULT", fault, 1);
    EXPECT_NE(message_of([&] { run_once(session, 2); }), fault);
    unsetenv("ASCEND_SIMULATOR_FAULT");
    EXPECT_LE(relative_error(run_once(session, 3), run_once(cpu, 3)), 1e-5) << fault;
  }
}

TEST_F(OnDevice, ALostDeviceIsToldAndTheNextCallFindsItAgain) {
  if (test_device().kind != DeviceKind::ascend) GTEST_SKIP() << "faults are the simulator's";
  const Tensor q = random_tensor({1, 33, 2, 64}, DType::f32, 1).to(test_device());
  const AttentionResult before = attention_forward(q, q, q);
  setenv("ASCEND_SIMULATOR_FAULT", "aclrtSynchronizeStream=507018", 1);
  EXPECT_THROW(attention_forward(q, q, q), DeviceError);
  unsetenv("ASCEND_SIMULATOR_FAULT");
  EXPECT_EQ(relative_error(attention_forward(q, q, q).output.to(Device{}), before.output.to(Device{})), 0);
}

TEST_F(OnDevice, PublicFunctionsTakeItsTensors) {
  const Device device = test_device();
  const Tensor x = random_tensor({2, 7, 4, 64}, DType::f32, 1);
  const Tensor weight = random_tensor({64}, DType::f32, 2);
  const Tensor there = x.to(device);
  EXPECT_EQ(there.device(), device);
  EXPECT_EQ(relative_error(there.to(Device{}), x), 0);
  EXPECT_EQ(relative_error(there.to(device).to(Device{}), x), 0);
  EXPECT_LE(relative_error(rms_norm(there, weight.to(device)).to(Device{}), rms_norm(x, weight)), 1e-5);
  EXPECT_LE(relative_error(activation(there, ActivationKind::mish).to(Device{}), activation(x, ActivationKind::mish)),
            1e-5);
  // Tables with gaps between their rows.
  const Tensor wide = random_tensor({1, 7, 1, 80}, DType::f32, 3);
  const Tensor table = wide.sliced(3, 0, 64);
  const Tensor table_there = wide.to(device).sliced(3, 0, 64);
  EXPECT_LE(relative_error(rotary_position_embedding(there, table_there, table_there).to(Device{}),
                           rotary_position_embedding(x, table, table)),
            1e-5);
  AttentionOptions options;
  options.return_lse = true;
  options.layout = AttentionLayout::bnsd;
  const AttentionResult result = attention_forward(there, there, there, {}, options);
  const AttentionResult expected = attention_forward(x, x, x, {}, options);
  EXPECT_LE(relative_error(result.output.to(Device{}), expected.output), 1e-5);
  EXPECT_LE(relative_error(result.lse.to(Device{}), expected.lse), 1e-5);
  EXPECT_GT(device_memory_statistics(device).used_bytes, x.bytes());

  EXPECT_NE(message_of([&] { attention_forward(there, x, x); }).find("they must be on one device"), std::string::npos);
  EXPECT_NE(message_of([&] { rms_norm(there, weight); }).find("allowed is one device"), std::string::npos);
  EXPECT_THROW(there.to_float32(), Unsupported);
  OperatorOptions plain;
  plain.fused = false;
  EXPECT_THROW(activation(there, ActivationKind::relu, plain), Unsupported);
  EXPECT_THROW(device_memory_statistics(Device{}), InvalidArgument);
}

/// Layers of different sizes; one weight is read by two of them, one by none of them.
Graph graph_of_layers() {
  GraphBuilder b;
  const Scope root(b, DType::f32);
  ValueId x = b.input("x", {{2, 5, 16}, DType::f32, {}});
  x = add(b, x, b.weight("outside", {16}, DType::f32));
  b.begin_segment("embed");
  const ValueId shared = b.weight("shared", {16}, DType::f32);
  x = add(b, linear(root / "in", x, 16), shared);
  for (int i = 0; i < 5; ++i) {
    b.begin_segment("block", i);
    const Scope block = root / fmt::format("block{}", i);
    x = add(b, x, linear(block / "out", activation(b, linear(block / "in", x, 16 + 8 * i), ActivationKind::silu), 16));
  }
  b.begin_segment("head");
  x = multiply(b, x, b.apply<ReshapeOp>({slice(b, b.weight("table", {4, 16}, DType::f32), 0, 1, 2)}, Shape{16}));
  b.output("y", add(b, x, shared));
  return b.finish();
}

TEST(WeightGroups, AreOfOneSegmentEach) {
  const Graph graph = graph_of_layers();
  const WeightGroups weights = group_weights(graph);
  ASSERT_EQ(weights.groups.size(), 7U);
  EXPECT_EQ(weights.groups[1].segment, "block 0");
  EXPECT_EQ(weights.groups[6].segment, "head 0");
  EXPECT_GT(weights.groups[5].bytes, weights.groups[1].bytes);
  for (std::size_t i = 0; i < graph.values.size(); ++i) {
    const std::string& name = graph.values[i].name;
    if (name == "outside" || name == "shared") {
      EXPECT_EQ(weights.of_value[i], -1) << name;
    }
    if (name == "table") {
      EXPECT_EQ(weights.of_value[i], 6);
    }
  }
}

TEST(WeightGroups, LeaveAsFewAsWillDo) {
  const WeightGroups weights = group_weights(graph_of_layers());
  std::size_t before = 0;
  for (std::uint64_t budget = weights.bytes() + 1000; budget > 100; budget -= 100) {
    const std::vector<bool> leave = groups_to_offload(weights, budget);
    std::uint64_t staying = 0;
    std::uint64_t largest = 0;
    for (std::size_t i = 0; i < leave.size(); ++i) {
      if (!leave[i]) staying += weights.groups[i].bytes;
      if (leave[i]) largest = std::max(largest, weights.groups[i].bytes);
    }
    const auto leaving = static_cast<std::size_t>(std::count(leave.begin(), leave.end(), true));
    if (budget >= weights.bytes()) {
      EXPECT_EQ(leaving, 0U);
    }
    if (budget >= weights.least_bytes()) {
      EXPECT_LE(staying + std::min<std::size_t>(2, leaving) * largest, budget);
    }
    if (budget < weights.least_bytes()) {
      EXPECT_EQ(leaving, leave.size());
    }
    EXPECT_GE(leaving, before);
    before = leaving;
  }
}

TEST_F(OnDevice, OffloadedWeightsGiveTheSame) {
  const auto weights = std::make_shared<const RandomWeights>(graph_of_layers());
  PlanOptions options;
  options.target = test_target(1);
  Model resident(weights);
  Session whole(resident.plan("layers", options, graph_of_layers));
  const WeightGroups groups = group_weights(graph_of_layers());
  for (const std::uint64_t budget : {std::uint64_t{0}, groups.bytes() * 2 / 3}) {
    Model model(weights);
    options.target.weight_budget = budget;
    const auto plan = model.plan("layers", options, graph_of_layers);
    ASSERT_NE(plan->offloaded(), nullptr);
    EXPECT_EQ(plan->offloaded()->groups() == groups.groups.size(), budget == 0);
    EXPECT_LE(plan->offloaded()->bytes_a_run(), groups.bytes());
    options.target.threads = 2;
    Session one(plan);
    Session other(model.plan("layers", options, graph_of_layers));  // of another plan with the same weights
    for (std::uint32_t seed = 1; seed < 4; ++seed) {
      const Tensor expected = run_once(whole, seed);
      EXPECT_EQ(relative_error(run_once(one, seed), expected), 0);
      EXPECT_EQ(relative_error(run_once(other, seed), expected), 0);
    }
    // Two at a time wait for each other.
    const Tensor expected = run_once(whole, 5);
    Tensor from_one;
    std::thread beside([&] {
      for (int times = 0; times < 5; ++times) from_one = run_once(one, 5);
    });
    for (int times = 0; times < 5; ++times) EXPECT_EQ(relative_error(run_once(other, 5), expected), 0);
    beside.join();
    EXPECT_EQ(relative_error(from_one, expected), 0);
    if (test_device().kind == DeviceKind::ascend) {
      for (int call = 1; call < 12; ++call) {
        setenv("ASCEND_SIMULATOR_FAULT", fmt::format("aclrtMemcpyAsync=507899:{}!", call).c_str(), 1);
        message_of([&] { run_once(one, 6); });
        unsetenv("ASCEND_SIMULATOR_FAULT");
        EXPECT_EQ(relative_error(run_once(one, 7), run_once(whole, 7)), 0) << call;
      }
    }
  }
}

/// More than two pinned buffers full.
TEST_F(OnDevice, LargeTensorsGoThroughStaging) {
  const Tensor large = random_tensor({9, 1 << 20}, DType::f32, 1);
  EXPECT_EQ(relative_error(large.to(test_device()).to(Device{}), large), 0);
  if (test_device().kind != DeviceKind::ascend) return;
  for (const char* fault : {"aclrtMemcpyAsync=507899:2!", "aclrtRecordEvent=507899:2!", "aclrtSynchronizeEvent=5:2!",
                            "aclrtMallocHost=207001:2!", "aclrtCreateEventExWithFlag=5:2!"}) {
    setenv("ASCEND_SIMULATOR_FAULT", fault, 1);
    EXPECT_THROW(large.to(test_device()), DeviceError) << fault;
    unsetenv("ASCEND_SIMULATOR_FAULT");
  }
}

}  // namespace
}  // namespace rondo::test
