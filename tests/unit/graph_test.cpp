#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "attention/attention_op.h"
#include "graph/buffer_layout.h"
#include "graph/builder.h"
#include "graph/memory_plan.h"
#include "graph/model.h"
#include "graph/passes/quantize_attention.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/layers.h"
#include "ops/layout.h"
#include "ops/linear.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"
#include "rondo/error.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

TensorType type(const Shape& shape) { return {shape, DType::f32, {}}; }

TEST(GraphBuilder, ErrorsNameTheOperatorAndBothShapes) {
  GraphBuilder b;
  const ValueId x = b.input("x", type({1, 4, 6}));
  const ValueId y = b.input("y", type({3, 5}));
  const std::string message = message_of([&] { b.apply<LinearOp>({x, y}); });
  EXPECT_TRUE(message.starts_with("linear: ")) << message;
  EXPECT_NE(message.find("[1, 4, 6]"), std::string::npos) << message;
  EXPECT_NE(message.find("[3, 5]"), std::string::npos) << message;
  EXPECT_NE(message_of([&] { add(b, x, y); }), "(no error)");
  EXPECT_NE(message_of([&] { slice(b, x, 2, 4, 9); }), "(no error)");
  EXPECT_NE(message_of([&] { b.apply<ReshapeOp>({x}, Shape{5, 5}); }), "(no error)");
  EXPECT_NE(message_of([&] { concat(b, {x, y}, 0); }), "(no error)");
}

/// x -> silu twice (the same), one result used, one node dead.
Graph small_graph() {
  GraphBuilder b;
  const ValueId x = b.input("x", type({2, 3, 8}));
  b.begin_segment("first");
  const ValueId a = activation(b, x, ActivationKind::silu);
  const ValueId same = activation(b, x, ActivationKind::silu);
  activation(b, x, ActivationKind::gelu_erf);  // dead
  b.begin_segment("second");
  b.output("y", add(b, a, multiply(b, same, x)));
  return b.finish();
}

std::vector<float> run_graph(Graph graph, const PassSelection& passes) {
  Model model(std::make_shared<const RandomWeights>(graph));
  PlanOptions options;
  options.target = test_target(1);
  options.passes = passes;
  Session session(model.plan("test", options, [&] { return graph; }));
  Tensor x = session.input("x");
  for (std::int64_t i = 0; i < x.elements(); ++i) x.as<float>()[i] = static_cast<float>(i) * 0.1F - 2.0F;
  session.run({});
  const Tensor y = session.output("y");
  return {y.as<float>(), y.as<float>() + y.elements()};
}

TEST(Passes, CommonSubexpressionsAndDeadNodes) {
  Graph graph = small_graph();
  ASSERT_EQ(graph.nodes.size(), 5U);
  PassSelection both;
  both.only_is_set = true;
  both.only = {"dead-nodes", "common-subexpressions"};
  const std::vector<PassResult> results = run_passes(graph, both, {});
  EXPECT_EQ(graph.nodes.size(), 3U);
  ASSERT_EQ(results.size(), 2U);
  EXPECT_EQ(results[0].nodes_removed, 1);
  EXPECT_EQ(results[1].nodes_removed, 1);
  EXPECT_EQ(graph.segments[0].begin, 0);
  EXPECT_EQ(graph.segments[0].end, 1);
  EXPECT_EQ(graph.segments[1].end, 3);
}

/// A graph in which every pass of the compile stage finds something.
Graph graph_for_every_pass() {
  GraphBuilder b;
  const Scope root(b, DType::f32);
  const ValueId x = b.input("x", type({1, 5, 48}));
  // A reshape that changes nothing, the same node twice, a node that nobody reads, one that reads constants alone.
  const ValueId same = b.apply<ReshapeOp>({activation(b, x, ActivationKind::silu)}, Shape{1, 5, 48});
  const ValueId again = activation(b, x, ActivationKind::silu);
  activation(b, x, ActivationKind::mish);
  const ValueId constant = activation(b, b.constant(random_tensor({5, 48}, DType::f32, 3)), ActivationKind::silu);
  const ValueId start = add(b, add(b, same, again), constant);
  const ValueId vector = slice(b, b.apply<ReshapeOp>({start}, Shape{5, 48}), 0, 0, 1);
  // A block of a transformer.
  const ValueId normed = b.apply<ModulateOp>({layer_norm(root / "norm", start, 1e-6), vector, vector});
  const ValueId cos = b.constant(random_tensor({5, 12}, DType::f32, 8));
  const ValueId sin = b.constant(random_tensor({5, 12}, DType::f32, 9));
  const auto heads = [&](const char* name) { return split_heads(b, linear(root / name, normed, 48), 2); };
  const auto turned = [&](const char* name) {
    return b.apply<RopeOp>({rms_norm(root / name / "norm", heads(name), 1e-6), cos, sin});
  };
  const ValueId q = turned("q");
  const ValueId k = turned("k");
  const ValueId mixed = join_heads(b, b.apply<AttentionOp>({q, k, heads("v")}, 0.3, false));
  const ValueId wide = linear(root / "wide", mixed, 96);
  const ValueId hidden =
      multiply(b, slice(b, wide, 2, 0, 48), activation(b, slice(b, wide, 2, 48, 96), ActivationKind::silu));
  const ValueId mlp = activation(b, linear(root / "mlp", normed, 48), ActivationKind::gelu_tanh);
  const ValueId both =
      concat(b, {activation(b, hidden, ActivationKind::relu), activation(b, mlp, ActivationKind::relu)}, 2);
  b.output("y", b.apply<GatedAddOp>({start, vector, linear(root / "out", both, 48)}));
  return b.finish();
}

TEST(Passes, EachCanBeSwitchedOffAndTheResultStays) {
  const Graph graph = graph_for_every_pass();
  Graph rewritten = graph;
  for (const PassResult& result : run_passes(rewritten, {}, {})) EXPECT_GT(result.nodes_matched, 0) << result.name;
  PassSelection none;
  none.only_is_set = true;
  const std::vector<float> expected = run_graph(graph, none);
  const auto expect_same = [&](const PassSelection& passes, std::string_view what) {
    const std::vector<float> given = run_graph(graph, passes);
    ASSERT_EQ(given.size(), expected.size());
    for (std::size_t i = 0; i < given.size(); ++i)
      ASSERT_NEAR(given[i], expected[i], 1e-4 * (1 + std::abs(expected[i]))) << what << " at " << i;
  };
  for (const Pass& pass : all_passes()) {
    if (pass.stage != PassStage::compile) continue;
    PassSelection without;
    without.without = {std::string(pass.name)};
    expect_same(without, fmt::format("without {}", pass.name));
    PassSelection only = none;
    only.only = {std::string(pass.name)};
    expect_same(only, fmt::format("only {}", pass.name));
  }
  expect_same({}, "all");
  for (const char* name : {"no-such-pass", "quantize-linears"}) {
    PassSelection unknown;
    unknown.without = {name};
    EXPECT_THROW(unknown.check(), InvalidArgument) << name;
  }
}

TEST(MemoryPlan, LivingBuffersNeverOverlap) {
  std::mt19937 engine(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<BufferLife> lives;
    const int count = 1 + static_cast<int>(engine() % 40);
    for (int i = 0; i < count; ++i) {
      const int first = static_cast<int>(engine() % 30);
      lives.push_back({engine() % 5000, first, first + static_cast<int>(engine() % 6)});
    }
    const MemoryPlan plan = plan_memory(lives);
    std::size_t peak = 0;
    for (int t = 0; t < 40; ++t) {
      std::size_t living = 0;
      for (const BufferLife& life : lives) living += life.first <= t && t <= life.last ? life.bytes : 0;
      peak = std::max(peak, living);
    }
    EXPECT_GE(plan.arena_bytes, peak);
    EXPECT_LE(plan.arena_bytes, plan.naive_bytes);
    for (std::size_t a = 0; a < lives.size(); ++a) {
      EXPECT_EQ(plan.offsets[a] % 64, 0U);
      for (std::size_t b = 0; b < a; ++b) {
        if (lives[a].last < lives[b].first || lives[b].last < lives[a].first) continue;
        const bool apart =
            plan.offsets[a] + lives[a].bytes <= plan.offsets[b] || plan.offsets[b] + lives[b].bytes <= plan.offsets[a];
        EXPECT_TRUE(apart);
      }
    }
  }
}

TEST(MemoryPlan, ReusesBuffersOfAChain) {
  std::vector<BufferLife> lives;
  for (int i = 0; i < 50; ++i) lives.push_back({1000, i, i + 1});
  const MemoryPlan plan = plan_memory(lives);
  EXPECT_EQ(plan.arena_bytes, 2048U);
  EXPECT_EQ(plan.naive_bytes, 50U * 1024U);
}

/// Rows that are read for the last time are written over; what is read again is not.
TEST(MemoryPlan, WritesOverWhatIsReadForTheLastTime) {
  const auto arena = [](bool again) {
    GraphBuilder b;
    const ValueId x = activation(b, b.input("x", type({64, 64})), ActivationKind::silu);
    ValueId y = x;
    for (int i = 0; i < 3; ++i) y = activation(b, y, ActivationKind::silu);
    b.output("y", again ? add(b, y, x) : y);
    return lay_out_buffers(b.finish()).memory.arena_bytes;
  };
  constexpr std::size_t kBuffer = 64 * 64 * sizeof(float);
  EXPECT_EQ(arena(false), 2 * kBuffer);  // the input, which is kept, and one more
  EXPECT_EQ(arena(true), 3 * kBuffer);
}

TEST(Session, StopsBetweenNodesWhenCancelled) {
  Graph graph = small_graph();
  Model model(std::make_shared<const RandomWeights>(graph));
  Session session(model.plan("test", {}, [&] { return graph; }));
  std::atomic<bool> cancel{true};
  RunContext context;
  context.cancel = &cancel;
  EXPECT_THROW(session.run(context), Cancelled);
  cancel = false;
  EXPECT_NO_THROW(session.run(context));
  EXPECT_THROW(session.output("z"), InvalidArgument);
}

TEST(Model, KeepsPlansByKey) {
  Graph graph = small_graph();
  Model model(std::make_shared<const RandomWeights>(graph));
  int built = 0;
  const auto build = [&] {
    ++built;
    return graph;
  };
  const auto first = model.plan("a", {}, build);
  EXPECT_EQ(model.plan("a", {}, build), first);
  EXPECT_NE(model.plan("b", {}, build), first);
  PlanOptions more_threads;
  more_threads.target.threads = 2;
  EXPECT_NE(model.plan("a", more_threads, build), first);
  EXPECT_EQ(built, 3);
}

TEST(Layout, ViewsOfStridedTensors) {
  const Tensor wide = Tensor::zeros({2, 6, 48}, DType::f32);
  const auto strides = [](const std::optional<Tensor>& view) { return view ? view->strides().to_string() : "none"; };
  const Tensor part = wide.sliced(2, 8, 32);  // rows of 24, 48 apart
  EXPECT_EQ(strides(view_as(part, {2, 6, 3, 8})), "[288, 48, 8, 1]");
  EXPECT_EQ(strides(view_as(part, {12, 24})), "[48, 1]");
  EXPECT_EQ(strides(view_as(part, {2, 3, 2, 24})), "[288, 96, 48, 1]");
  EXPECT_EQ(strides(view_as(part, {2, 144})), "none");
  EXPECT_EQ(strides(view_as(part, {1, 2, 6, 1, 24})).substr(0, 1), "[");
  const Tensor tokens = wide.sliced(1, 1, 4);  // a gap between batches
  EXPECT_EQ(strides(view_as(tokens, {2, 144})), "[288, 1]");
  EXPECT_EQ(strides(view_as(tokens, {6, 48})), "none");
  EXPECT_EQ(strides(view_as(wide.sliced(1, 0, 1), {2, 1, 48})), "[288, 288, 1]");
}

/// A slice in the middle of a sequence cannot be reshaped as a view: the plan copies.
TEST(Plan, CopiesWhereNoViewIsPossible) {
  GraphBuilder b;
  const ValueId x = b.input("x", type({2, 5, 4}));
  const ValueId part = slice(b, x, 1, 1, 3);
  b.output("y", b.apply<ReshapeOp>({part}, Shape{4, 4}));
  const std::vector<float> y = run_graph(b.finish(), {});
  EXPECT_FLOAT_EQ(y[0], 4 * 0.1F - 2.0F);
  EXPECT_FLOAT_EQ(y[8], 24 * 0.1F - 2.0F);
}

TEST(QuantizeAttention, LeavesSkippedLayersAndCrossAttention) {
  GraphBuilder b;
  const ValueId x = b.input("x", {{1, 4, 2, 8}, DType::f32, {}});
  const ValueId text = b.input("text", {{1, 3, 2, 8}, DType::f32, {}});
  const ValueId own = b.apply<AttentionOp>({x, x, x}, 0.1, false);
  const ValueId cross = b.apply<AttentionOp>({own, text, text}, 0.1, false);
  const ValueId skipped = b.apply<AttentionOp>({cross, x, x}, 0.1, false);
  b.output("y", b.apply<AttentionOp>({skipped, x, x}, 0.1, false));
  Graph graph = b.finish();
  KvCachePolicy policy;
  policy.quantization = {KvCacheDtype::fp8, true, false};
  policy.skip_layers = {2};  // cross-attention is counted, too
  const PassResult result = quantize_attention(graph, policy);
  EXPECT_EQ(result.near_misses.size(), 2);
  std::vector<bool> quantized;
  for (const Node& node : graph.nodes)
    quantized.push_back(static_cast<const AttentionOp&>(*node.op).request().quantization.active());
  EXPECT_EQ(quantized, (std::vector<bool>{true, false, false, true}));
}

}  // namespace
}  // namespace rondo::test
