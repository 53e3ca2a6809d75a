// Each fusion pass on a tiny graph: what it matches, what it leaves, and that the result stays.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "attention/attention_op.h"
#include "core/cpu_level.h"
#include "graph/buffer_layout.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/layers.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/linear.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

using Build = std::function<void(GraphBuilder&)>;

Graph graph_of(const Build& build) {
  GraphBuilder b;
  build(b);
  return b.finish();
}

/// The graph's output "y" with these passes; every input is the same noise.
Tensor run(const Build& build, const PassSelection& passes) {
  Model model(std::make_shared<RandomWeights>(graph_of(build)));
  PlanOptions options;
  options.target = test_target(2);
  options.passes = passes;
  Session session(model.plan("test", options, [&] { return graph_of(build); }));
  std::uint32_t seed = 1;
  for (const NamedValue& named : session.plan().graph().inputs) {
    Tensor target = session.input(named.name);
    const Tensor noise = random_tensor(target.shape(), target.dtype(), seed++);
    std::copy_n(noise.as<std::byte>(), noise.bytes(), target.as<std::byte>());
  }
  session.run({});
  return session.output("y").to_float32();
}

/// Passes for a plan that runs on this CPU.
PassContext on_cpu() {
  PassContext context;
  context.cpu_level = cpu_level();
  return context;
}

PassSelection only(const std::string& pass) {
  PassSelection selection;
  selection.only_is_set = true;
  if (!pass.empty()) selection.only = {pass};
  return selection;
}

/// The pass turns the graph's nodes into these, in order, and changes the result by rounding at most.
void expect_pass(const Build& build, const std::string& pass, const std::vector<std::string>& nodes,
                 std::size_t near_misses = 0) {
  Graph graph = graph_of(build);
  const std::vector<PassResult> results = run_passes(graph, only(pass), on_cpu());
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0].near_misses.size(), near_misses) << pass;
  std::vector<std::string> found;
  for (const Node& node : graph.nodes) found.emplace_back(node.op->name());
  EXPECT_EQ(found, nodes) << pass << "\n" << graph.to_string();
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const ValueId output : graph.nodes[i].outputs)
      EXPECT_EQ(graph.values[static_cast<std::size_t>(output)].producer, static_cast<NodeId>(i));
  }
  EXPECT_LE(relative_error(run(build, only(pass)), run(build, only(""))), 1e-5) << pass;
}

TensorType floats(const Shape& shape) { return {shape, DType::f32, {}}; }

TEST(Fusion, NoOps) {
  expect_pass(
      [](GraphBuilder& b) {
        const ValueId x = activation(b, b.input("x", floats({2, 5, 24})), ActivationKind::silu);
        const ValueId same = slice(b, b.apply<ReshapeOp>({x}, Shape{2, 5, 24}), 1, 0, 5);
        const ValueId still = b.apply<CastOp>({concat(b, {same}, 2)}, DType::f32);
        b.output("y", slice(b, still, 1, 0, 4));
      },
      "no-ops", {"activation", "slice"});
  expect_pass(  // an output is not to be an input
      [](GraphBuilder& b) {
        b.output("y", slice(b, b.input("x", floats({2, 5, 24})), 1, 0, 5));
      },
      "no-ops", {"slice"}, 1);
}

TEST(Fusion, Constants) {
  expect_pass(
      [](GraphBuilder& b) {
        const ValueId table = activation(b, b.constant(random_tensor({5, 24}, DType::f32, 3)), ActivationKind::silu);
        const ValueId twice = add(b, table, table);
        b.output("y", add(b, b.input("x", floats({2, 5, 24})), twice));
      },
      "fold-constants", {"add"});
  expect_pass(  // an output has to have a buffer
      [](GraphBuilder& b) {
        b.input("x", floats({2, 24}));
        b.output("y", activation(b, b.constant(random_tensor({5, 24}, DType::f32, 3)), ActivationKind::silu));
      },
      "fold-constants", {"activation"}, 1);
}

TEST(Fusion, AdaptiveNorm) {
  const auto inputs = [](GraphBuilder& b) {
    return std::array{b.input("x", floats({2, 5, 24})), b.input("scale", floats({2, 24})),
                      b.input("shift", floats({2, 24}))};
  };
  expect_pass(
      [&](GraphBuilder& b) {
        const auto [x, scale, shift] = inputs(b);
        b.output("y", b.apply<ModulateOp>({b.apply<LayerNormOp>({x}, 1e-6), scale, shift}));
      },
      "fuse-adaptive-norm", {"layernorm_scale_shift"});
  expect_pass(
      [&](GraphBuilder& b) {
        const auto [x, scale, shift] = inputs(b);
        const Scope root(b, DType::f32);
        b.output("y", b.apply<ModulateOp>({layer_norm(root / "norm", x, 1e-6), scale, shift}));
      },
      "fuse-adaptive-norm", {"layernorm_scale_shift"});
  expect_pass(  // the norm's result is read twice
      [&](GraphBuilder& b) {
        const auto [x, scale, shift] = inputs(b);
        const ValueId normed = b.apply<LayerNormOp>({x}, 1e-6);
        b.output("y", add(b, b.apply<ModulateOp>({normed, scale, shift}), normed));
      },
      "fuse-adaptive-norm", {"layer_norm", "modulate", "add"}, 1);
}

TEST(Fusion, NormAndRope) {
  const auto tables = [](GraphBuilder& b, std::int64_t tokens) {
    return std::pair(b.constant(random_tensor({tokens, 8}, DType::f32, 8)),
                     b.constant(random_tensor({tokens, 8}, DType::f32, 9)));
  };
  expect_pass(
      [&](GraphBuilder& b) {
        const auto [cos, sin] = tables(b, 5);
        const ValueId x = b.input("x", floats({2, 5, 3, 16}));
        b.output("y", b.apply<RopeOp>({rms_norm(Scope(b, DType::f32) / "norm", x, 1e-6), cos, sin}));
      },
      "fuse-norm-rope", {"rms_norm_rope"});
  expect_pass(  // two streams that are normed apart
      [&](GraphBuilder& b) {
        const auto [cos, sin] = tables(b, 12);
        const Scope root(b, DType::f32);
        const ValueId text = rms_norm(root / "text", b.input("t", floats({2, 5, 3, 16})), 1e-6);
        const ValueId image = rms_norm(root / "image", b.input("i", floats({2, 7, 3, 16})), 1e-6);
        b.output("y", b.apply<RopeOp>({concat(b, {text, image}, 1), cos, sin}));
      },
      "fuse-norm-rope", {"rms_norm_rope", "rms_norm_rope", "concat"});
  expect_pass(  // nothing is normed
      [&](GraphBuilder& b) {
        const auto [cos, sin] = tables(b, 5);
        b.output("y", b.apply<RopeOp>({b.input("x", floats({2, 5, 3, 16})), cos, sin}));
      },
      "fuse-norm-rope", {"rope"}, 1);
}

TEST(Fusion, LinearAndActivation) {
  for (const ActivationKind kind : {ActivationKind::gelu_erf, ActivationKind::gelu_tanh, ActivationKind::quick_gelu,
                                    ActivationKind::silu, ActivationKind::mish, ActivationKind::relu}) {
    expect_pass(
        [&](GraphBuilder& b) {
          const ValueId x = b.input("x", floats({2, 5, 24}));
          b.output("y", activation(b, linear(Scope(b, DType::f32) / "linear", x, 40), kind));
        },
        "fuse-linear-activation", {"linear"});
  }
  expect_pass(
      [](GraphBuilder& b) {
        const ValueId product = linear(Scope(b, DType::f32) / "linear", b.input("x", floats({2, 5, 24})), 40);
        b.output("y", multiply(b, activation(b, product, ActivationKind::silu), product));
      },
      "fuse-linear-activation", {"linear", "activation", "multiply"}, 1);
}

TEST(Fusion, LinearAndGatedResidual) {
  const auto gated = [](GraphBuilder& b, bool bias, const Shape& gate) {
    const ValueId x = b.input("x", floats({2, 5, 24}));
    const ValueId product = linear(Scope(b, DType::f32) / "linear", x, 40, bias);
    return b.apply<GatedAddOp>({b.input("residual", floats({2, 5, 40})), b.input("gate", floats(gate)), product});
  };
  for (const Shape& gate : {Shape{2, 40}, Shape{2, 1, 40}}) {
    expect_pass([&](GraphBuilder& b) { b.output("y", gated(b, true, gate)); }, "fuse-gated-residual", {"linear"});
  }
  expect_pass(
      [&](GraphBuilder& b) {
        b.output("y", gated(b, false, {2, 40}));
      },
      "fuse-gated-residual", {"linear", "gated_add"}, 1);
  expect_pass(
      [&](GraphBuilder& b) {
        b.output("y", gated(b, true, {2, 5, 40}));
      },
      "fuse-gated-residual", {"linear", "gated_add"}, 1);
}

TEST(Fusion, Swiglu) {
  const auto cut = [](GraphBuilder& b, std::int64_t at) {
    const ValueId x = b.input("x", floats({2, 5, 48}));
    const ValueId hidden = slice(b, x, 2, 0, 24);
    const ValueId gate = slice(b, x, 2, at, at + 24);
    return std::pair(hidden, activation(b, gate, ActivationKind::silu));
  };
  for (const bool gate_first : {false, true}) {
    expect_pass(
        [&](GraphBuilder& b) {
          const auto [hidden, gate] = cut(b, 24);
          b.output("y", gate_first ? multiply(b, gate, hidden) : multiply(b, hidden, gate));
        },
        "fuse-swiglu", {"swiglu"});
  }
  expect_pass(
      [&](GraphBuilder& b) {
        const auto [hidden, gate] = cut(b, 23);
        b.output("y", multiply(b, hidden, gate));
      },
      "fuse-swiglu", {"slice", "slice", "activation", "multiply"}, 1);
}

/// How many concatenations of the graph are left to run once its parts are written in place.
int copied_concats(const Build& build) {
  Graph graph = graph_of(build);
  run_passes(graph, only("concat-in-place"), {});
  const BufferLayout layout = lay_out_buffers(graph);
  return static_cast<int>(std::count_if(graph.nodes.begin(), graph.nodes.end(), [&](const Node& node) {
    return node.op->name() == "concat" && !layout.is_view[static_cast<std::size_t>(node.outputs[0])];
  }));
}

TEST(Fusion, ConcatInPlace) {
  const auto streams = [](GraphBuilder& b) {
    return std::pair(activation(b, b.input("text", floats({2, 3, 24})), ActivationKind::silu),
                     activation(b, b.input("image", floats({2, 5, 24})), ActivationKind::silu));
  };
  const auto expect_copies = [](const Build& build, int copies, const std::vector<std::string>& nodes) {
    expect_pass(build, "concat-in-place", nodes, static_cast<std::size_t>(copies));
    EXPECT_EQ(copied_concats(build), copies);
  };
  expect_copies(  // along the tokens, with rows that are read by others as well
      [&](GraphBuilder& b) {
        const auto [text, image] = streams(b);
        const ValueId joined = concat(b, {text, image}, 1);
        const ValueId more = activation(b, text, ActivationKind::relu);
        b.output("y", add(b, joined, concat(b, {more, activation(b, image, ActivationKind::relu)}, 1)));
      },
      0, {"activation", "activation", "concat", "activation", "activation", "concat", "add"});
  for (const std::int64_t batch : {1, 2}) {  // a product's rows, which are to lie close together
    expect_copies(
        [&](GraphBuilder& b) {
          const ValueId x = b.input("x", floats({batch, 5, 24}));
          const ValueId product = linear(Scope(b, DType::f32) / "linear", x, 24);
          b.output("y", concat(b, {product, activation(b, x, ActivationKind::relu)}, 1));
        },
        batch == 1 ? 0 : 1, {"linear", "activation", "concat"});
  }
  expect_copies(  // along the width, through another shape
      [&](GraphBuilder& b) {
        const ValueId x = activation(b, b.input("x", floats({2, 5, 2, 12})), ActivationKind::silu);
        const ValueId mixed = join_heads(b, b.apply<AttentionOp>({x, x, x}, 0.3, false));
        const ValueId other = activation(b, join_heads(b, x), ActivationKind::relu);
        b.output("y", linear(Scope(b, DType::f32) / "out", concat(b, {mixed, other}, 2), 16));
      },
      0, {"activation", "attention", "reshape", "reshape", "activation", "concat", "linear"});
  expect_copies(  // an input, the same part twice, an output
      [&](GraphBuilder& b) {
        const auto [text, image] = streams(b);
        const ValueId first = concat(b, {text, b.input("more", floats({2, 1, 24}))}, 1);
        const ValueId second = concat(b, {image, image}, 1);
        const ValueId third = concat(b, {first, second}, 1);
        b.output("y", third);
        b.output("image", image);
      },
      3, {"activation", "activation", "concat", "concat", "concat"});
}

TEST(Fusion, LinearsOverOneInput) {
  const Build build = [](GraphBuilder& b) {
    const Scope root(b, DType::f32);
    b.begin_segment("block", 0);
    const ValueId x = b.input("x", floats({2, 5, 24}));
    const auto project = [&](const char* name) { return split_heads(b, linear(root / name, x, 24), 2); };
    const ValueId q = project("q");
    const ValueId k = project("k");
    const ValueId v = project("v");
    const ValueId narrow = linear(root / "other", x, 24, false);  // no bias: a product of its own
    const ValueId mixed = join_heads(b, b.apply<AttentionOp>({q, k, v}, 0.3, false));
    b.begin_segment("block", 1);
    const ValueId next = linear(root / "next_block", x, 24);
    b.output("y", add(b, add(b, mixed, narrow), next));
  };
  if (cpu_level() >= CpuLevel::avx512) {
    expect_pass(build, "join-linears",
                {"linear", "slice", "slice", "slice", "reshape", "reshape", "reshape", "linear", "attention", "reshape",
                 "linear", "add", "add"});
  }
  Graph graph = graph_of(build);
  run_passes(graph, {}, on_cpu());
  EXPECT_EQ(graph.segments[1].kind, "block");
  EXPECT_EQ(graph.segments[1].end, static_cast<NodeId>(graph.nodes.size()));

  // CPUs below AVX-512 use weights where they are mapped; of a device nothing but the device counts.
  const auto matched = [&](std::optional<CpuLevel> level) {
    Graph joined = graph_of(build);
    PassContext context;
    context.cpu_level = level;
    return run_passes(joined, only("join-linears"), context).at(0).nodes_matched;
  };
  EXPECT_EQ(matched(CpuLevel::avx2), 0);
  EXPECT_EQ(matched(CpuLevel::avx512), 3);
  EXPECT_EQ(matched(std::nullopt), 3);
}

/// The instruction set of the host says nothing about a device's products.
TEST(Fusion, QuantisedWeightsAreTheTargets) {
  const auto limit = [](std::optional<CpuLevel> level) {
    Graph graph = graph_of([](GraphBuilder& b) {
      b.output("y", linear(Scope(b, DType::f32) / "linear", b.input("x", floats({2, 5, 64})), 64));
    });
    PassContext context;
    context.cpu_level = level;
    context.quantization.format = LinearFormat::w8a8;
    run_passes(graph, only(""), context);
    return static_cast<const LinearOp&>(*graph.nodes[0].op).quantization()->weight_limit;
  };
  EXPECT_EQ(limit(CpuLevel::avx2), 63);
  EXPECT_EQ(limit(CpuLevel::avx512_vnni), 127);
  EXPECT_EQ(limit(std::nullopt), 127);
}

}  // namespace
}  // namespace rondo::test
