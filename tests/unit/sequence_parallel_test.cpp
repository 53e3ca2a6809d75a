#include "graph/passes/sequence_parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>

#include "attention/attention_op.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/autoencoder_kl.h"
#include "models/flux_transformer.h"
#include "models/layers.h"
#include "ops/layout.h"
#include "ops/wire_rows.h"
#include "rondo/error.h"
#include "support/devices.h"
#include "support/ranks.h"

namespace rondo::test {
namespace {

using Inputs = std::map<std::string, Tensor>;

/// Every node's reference in float64, one after the other.
std::vector<double> evaluate(const Graph& graph, const Inputs& inputs) {
  std::vector<RefTensor> values(graph.values.size());
  for (const NamedValue& input : graph.inputs)
    values[static_cast<std::size_t>(input.value)] = to_reference(inputs.at(input.name));
  for (std::size_t i = 0; i < graph.values.size(); ++i) {
    if (graph.values[i].kind == ValueKind::constant) values[i] = to_reference(graph.values[i].constant);
  }
  for (const Node& node : graph.nodes) {
    std::vector<RefTensor> operands;
    for (const ValueId id : node.inputs) operands.push_back(values[static_cast<std::size_t>(id)]);
    std::vector<RefTensor> outputs;
    for (const ValueId id : node.outputs) {
      const Shape& shape = graph.values[static_cast<std::size_t>(id)].type.shape;
      outputs.push_back({shape, std::vector<double>(static_cast<std::size_t>(shape.elements()))});
    }
    node.op->reference(operands, outputs);
    for (std::size_t o = 0; o < outputs.size(); ++o)
      values[static_cast<std::size_t>(node.outputs[o])] = std::move(outputs[o]);
  }
  return values[static_cast<std::size_t>(graph.outputs[0].value)].values;
}

/// What every rank computes, rank by rank.
std::vector<std::vector<float>> run_on_ranks(const std::function<Graph()>& build, const Inputs& inputs,
                                             const ParallelDegrees& degrees, PlanOptions options = {},
                                             bool replicates_text = false, RingWire wire = RingWire::as_computed) {
  const auto weights = std::make_shared<const RandomWeights>(build());
  std::vector<std::vector<float>> results(static_cast<std::size_t>(degrees.world()));
  run_ranks(degrees.world(), [&](Communicator& world) {
    const ProcessGroups groups(world, degrees);
    PlanOptions own = options;
    own.target = test_target(options.target.threads, world.rank());
    own.parallel = {degrees, groups.place(), replicates_text, wire};
    Model model(weights);
    Session session(model.plan("test", own, build));
    for (const auto& [name, value] : inputs) {
      Tensor target = session.input(name);
      std::copy_n(value.as<std::byte>(), value.bytes(), target.as<std::byte>());
    }
    RunContext context;
    if (own.parallel.active()) context.sequence = &groups.sequence();
    for (int times = 0; times < 2; ++times) session.run(context);  // buffers are used again
    const Tensor output = session.output("y").to_float32();
    results[static_cast<std::size_t>(world.rank())] = {output.as<float>(), output.as<float>() + output.elements()};
  });
  return results;
}

double relative_error(std::span<const float> given, std::span<const double> expected) {
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += (given[i] - expected[i]) * (given[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

Tensor normal(const Shape& shape, std::mt19937& engine, float spread = 1) {
  std::normal_distribution<float> distribution(0, spread);
  Tensor tensor = Tensor::empty(shape, DType::f32);
  std::generate_n(tensor.as<float>(), tensor.elements(), [&] { return distribution(engine); });
  return tensor;
}

/// Tokens of several inputs meet in one attention.
struct JointAttention {
  std::int64_t batch = 1;
  std::int64_t heads = 2;
  std::int64_t key_heads = 2;
  std::int64_t head_dim = 8;
  std::int64_t value_dim = 8;
  std::vector<std::int64_t> tokens{12};  // of each input; the first leads to the output
  std::vector<int> order{0};             // in which they are joined
  bool causal = false;
  bool masked = false;
  bool mask_heads = false;
  float spread = 1;

  std::int64_t width() const { return heads * head_dim + key_heads * (head_dim + value_dim); }
  std::int64_t all_tokens() const {
    std::int64_t sum = 0;
    for (const std::int64_t count : tokens) sum += count;
    return sum;
  }
  Shape mask_shape() const { return {1, mask_heads ? heads : 1, all_tokens(), all_tokens()}; }

  Graph build() const {
    GraphBuilder b;
    std::vector<ValueId> inputs;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      inputs.push_back(b.input("x" + std::to_string(i), {{batch, tokens[i], width()}, DType::f32, {}}));
    std::vector<ValueId> parts;
    for (const int i : order) parts.push_back(inputs[static_cast<std::size_t>(i)]);
    const ValueId x = parts.size() == 1 ? parts[0] : b.add(std::make_shared<const ConcatOp>(1), parts);
    const auto heads_of = [&](std::int64_t begin, std::int64_t count, std::int64_t dim) {
      return split_heads(b, slice(b, x, 2, begin, begin + count * dim), count);
    };
    std::vector<ValueId> operands{heads_of(0, heads, head_dim), heads_of(heads * head_dim, key_heads, head_dim),
                                  heads_of((heads + key_heads) * head_dim, key_heads, value_dim)};
    if (masked) operands.push_back(b.input("mask", {mask_shape(), DType::f32, {}}));
    const ValueId y = join_heads(
        b, b.add(std::make_shared<const AttentionOp>(1 / std::sqrt(static_cast<double>(head_dim)), causal), operands));
    std::int64_t before = 0;
    for (const int i : order) {
      if (i == 0) break;
      before += tokens[static_cast<std::size_t>(i)];
    }
    b.output("y", slice(b, y, 1, before, before + tokens[0]));
    return b.finish();
  }

  Inputs inputs(std::uint32_t seed) const {
    std::mt19937 engine(seed);
    Inputs all;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      all["x" + std::to_string(i)] = normal({batch, tokens[i], width()}, engine, spread);
    if (masked) {
      all["mask"] = normal(mask_shape(), engine);
      Tensor& mask = all["mask"];
      for (std::int64_t i = 0; i < mask.elements(); ++i) {
        // Every fourth key is hidden, and all keys of every seventh query.
        if (engine() % 4 == 0 || i / all_tokens() % 7 == 3) mask.as<float>()[i] = -INFINITY;
      }
    }
    return all;
  }

  void check(const ParallelDegrees& degrees, bool replicates_text = false) const {
    const Inputs in = inputs(7);
    const std::vector<double> expected = evaluate(build(), in);
    const auto given = run_on_ranks([this] { return build(); }, in, degrees, {}, replicates_text);
    for (const std::vector<float>& values : given) {
      ASSERT_EQ(values.size(), expected.size());
      EXPECT_LT(relative_error(values, expected), 2e-6) << degrees.to_string();
      EXPECT_EQ(values, given[0]);
    }
  }
};

const ParallelDegrees kDegrees[]{{1, 1, 1, 2}, {1, 1, 2, 1}, {1, 1, 2, 2}, {1, 1, 1, 4}, {1, 1, 4, 1},
                                 {1, 1, 1, 3}, {1, 1, 3, 1}, {1, 1, 2, 3}, {1, 1, 3, 2}, {1, 1, 8, 1}};

TEST(SequenceParallel, AnyHeadsAndTokens) {
  for (const ParallelDegrees& degrees : kDegrees) {
    JointAttention{.heads = 4, .key_heads = 4, .tokens = {24}}.check(degrees);
    JointAttention{.heads = 5, .key_heads = 5, .value_dim = 4, .tokens = {17}}.check(degrees);
    JointAttention{.batch = 2, .heads = 3, .key_heads = 3, .tokens = {29}}.check(degrees);
  }
}

TEST(SequenceParallel, FewerTokensOrHeadsThanRanks) {
  for (const ParallelDegrees& degrees : kDegrees) {
    JointAttention{.heads = 1, .key_heads = 1, .tokens = {3}}.check(degrees);
    JointAttention{.batch = 2, .heads = 2, .key_heads = 2, .value_dim = 16, .tokens = {1}}.check(degrees);
  }
}

TEST(SequenceParallel, GroupedAndMultiQueryHeads) {
  for (const ParallelDegrees& degrees : kDegrees) {
    JointAttention{.heads = 6, .key_heads = 3, .tokens = {20}}.check(degrees);
    JointAttention{.heads = 8, .key_heads = 2, .tokens = {20}}.check(degrees);
    JointAttention{.heads = 5, .key_heads = 1, .tokens = {20}}.check(degrees);
  }
}

TEST(SequenceParallel, TextInEveryPositionSplitOrWhole) {
  for (const ParallelDegrees& degrees : kDegrees) {
    for (const bool replicates : {false, true}) {
      JointAttention{.tokens = {20, 7}, .order = {1, 0}}.check(degrees, replicates);
      JointAttention{.tokens = {20, 7}, .order = {0, 1}}.check(degrees, replicates);
      JointAttention{.batch = 2, .tokens = {20, 7, 3}, .order = {2, 0, 1}}.check(degrees, replicates);
    }
  }
}

TEST(SequenceParallel, Masks) {
  for (const ParallelDegrees& degrees : kDegrees) {
    JointAttention{.tokens = {22}, .masked = true}.check(degrees);
    JointAttention{.heads = 5, .key_heads = 5, .tokens = {22}, .masked = true, .mask_heads = true}.check(degrees);
    for (const bool replicates : {false, true}) {
      JointAttention{.batch = 2, .tokens = {20, 7}, .order = {1, 0}, .masked = true}.check(degrees, replicates);
    }
  }
}

TEST(SequenceParallel, Causal) {
  for (const ParallelDegrees& degrees : kDegrees) {
    JointAttention{.tokens = {22}, .causal = true}.check(degrees);
    JointAttention{.tokens = {3}, .causal = true}.check(degrees);
    for (const bool replicates : {false, true}) {
      JointAttention{.tokens = {20, 7}, .order = {1, 0}, .causal = true}.check(degrees, replicates);
      JointAttention{.tokens = {20, 7}, .order = {0, 1}, .causal = true, .masked = true}.check(degrees, replicates);
    }
  }
}

TEST(SequenceParallel, ScoresOfThousands) {
  for (const ParallelDegrees& degrees : kDegrees) JointAttention{.tokens = {40}, .spread = 20}.check(degrees);
}

int exchanges_of(const Graph& graph) {
  return static_cast<int>(std::count_if(graph.nodes.begin(), graph.nodes.end(),
                                        [](const Node& node) { return node.op->name() == "exchange"; }));
}

/// Runs a model's graph on many ranks and on one.
void check_model(const std::function<Graph()>& build) {
  const auto named = [&] {
    Graph graph = build();
    graph.outputs[0].name = "y";
    return graph;
  };
  std::mt19937 engine(3);
  Inputs inputs;
  const Graph graph = named();
  for (const NamedValue& input : graph.inputs)
    inputs[input.name] = normal(graph.values[static_cast<std::size_t>(input.value)].type.shape, engine);
  const auto alone = run_on_ranks(named, inputs, {});
  const std::vector<double> expected(alone[0].begin(), alone[0].end());
  for (const ParallelDegrees& degrees : kDegrees) {
    for (const bool replicates : {false, true}) {
      for (const auto& values : run_on_ranks(named, inputs, degrees, {}, replicates))
        EXPECT_LT(relative_error(values, expected), 2e-6) << degrees.to_string();
    }
  }
  Graph split = named();
  const PassResult result = parallelize_sequence(split, {{1, 1, 2, 2}, {0, 0, 1, 1}});
  EXPECT_TRUE(result.near_misses.empty()) << result.near_misses[0];
}

/// With text in front, small but with every kind of node.
TEST(SequenceParallel, FluxTransformer) {
  FluxTransformerConfig config;
  config.in_channels = config.out_channels = 8;
  config.num_layers = 2;
  config.num_single_layers = 2;
  config.attention_head_dim = 16;
  config.num_attention_heads = 3;
  config.joint_attention_dim = 24;
  config.pooled_projection_dim = 12;
  config.guidance_embeds = true;
  config.axes_dims_rope = {4, 6, 6};
  const auto build = [&] { return build_flux_transformer(config, {2, 9, 5, 7, DType::f32, true}, nullptr); };
  check_model(build);
  // A layer's messages are its query's, its keys' and values', and its output's; or two hops of a ring of three.
  Graph split = build();
  parallelize_sequence(split, {{1, 1, 1, 2}, {}});
  EXPECT_EQ(exchanges_of(split), 4 * 3 + 1);
  split = build();
  parallelize_sequence(split, {{1, 1, 3, 1}, {}});
  EXPECT_EQ(exchanges_of(split), 4 * 2 + 1);
}

TEST(SequenceParallel, PicturesByRows) {
  AutoencoderKlConfig config;
  config.latent_channels = 4;
  config.norm_num_groups = 4;
  config.block_out_channels = {8, 16};
  for (const bool attends : {true, false}) {
    config.mid_block_add_attention = attends;
    check_model([&] { return build_vae_decoder(config, 2, 7, 5, DType::f32, nullptr); });
    check_model([&] { return build_vae_decoder(config, 1, 1, 2, DType::f32, nullptr); });
    check_model([&] { return build_vae_encoder(config, 1, 14, 6, DType::f32, nullptr); });
  }
}

/// Sequences whose queries and keys lie at different places: in one hop some are hidden by causality.
TEST(SequenceParallel, CausalSequencesOfDifferentPlaces) {
  const auto build = [] {
    GraphBuilder b;
    const ValueId x = b.input("x0", {{1, 8, 48}, DType::f32, {}});
    const auto heads = [&](std::int64_t i) { return split_heads(b, slice(b, x, 2, i * 16, i * 16 + 16), 2); };
    const std::vector<AttentionSequence> sequences{{0, 0, 2, 4, 2}, {0, 2, 4, 2, 4}, {0, 6, 2, 6, 2}};
    const std::array operands{heads(0), heads(1), heads(2)};
    b.output("y",
             join_heads(b, b.add(std::make_shared<const AttentionOp>(0.35, true, AttentionRequest{}, false, sequences),
                                 operands)));
    return b.finish();
  };
  std::mt19937 engine(1);
  const Inputs inputs{{"x0", normal({1, 8, 48}, engine)}};
  const std::vector<double> expected = evaluate(build(), inputs);
  EXPECT_LT(relative_error(run_on_ranks(build, inputs, {1, 1, 2, 1})[1], expected), 2e-6);
  EXPECT_LT(relative_error(run_on_ranks(build, inputs, {1, 1, 1, 2})[1], expected), 2e-6);
}

/// Rows in fewer bytes on their way: each is rounded once.
TEST(SequenceParallel, RingInFewerBytes) {
  const JointAttention attention{.batch = 2, .heads = 3, .key_heads = 3, .value_dim = 16, .tokens = {37}};
  const Inputs inputs = attention.inputs(5);
  const std::vector<double> expected = evaluate(attention.build(), inputs);
  for (const auto& [wire, least, most] :
       {std::tuple(RingWire::as_computed, 0.0, 2e-6), {RingWire::bf16, 1e-5, 4e-3}, {RingWire::int8, 1e-5, 1e-2}}) {
    for (const ParallelDegrees& degrees : {ParallelDegrees{1, 1, 3, 1}, {1, 1, 2, 2}}) {
      const auto build = [&] { return attention.build(); };
      const double error = relative_error(run_on_ranks(build, inputs, degrees, {}, false, wire)[0], expected);
      EXPECT_GE(error, least);
      EXPECT_LE(error, most);
    }
  }
}

TEST(WireRows, KeepEachPartsScaleAndItsNans) {
  const std::vector<std::int64_t> parts{3, 2};
  const auto there_and_back = [&](std::vector<float> row) {
    std::vector<std::int8_t> bytes(static_cast<std::size_t>(wire_row_bytes(parts)));
    row_to_wire(parts, row.data(), bytes.data());
    row_from_wire(parts, bytes.data(), row.data());
    return row;
  };
  EXPECT_EQ(there_and_back({127, -1, 0, 2.54F, 0.02F}), (std::vector<float>{127, -1, 0, 2.54F, 0.02F}));
  EXPECT_EQ(there_and_back({0, 0, 0, -254, 127}), (std::vector<float>{0, 0, 0, -254, 128}));
  for (const float value : {INFINITY, -INFINITY, NAN}) {
    const std::vector<float> row = there_and_back({1, value, 2, 127, -127});
    EXPECT_TRUE(std::isnan(row[0]) && std::isnan(row[1]) && std::isnan(row[2]));
    EXPECT_EQ(row[3], 127);
  }
  EXPECT_EQ(there_and_back({1e-44F, 0, 0, 1, 1})[3], 1.0F);
}

/// What mixes tokens in a way that the pass does not know is computed whole.
TEST(SequenceParallel, UnknownOperatorsAreComputedWhole) {
  const auto build = [] {
    GraphBuilder b;
    const ValueId x = b.input("x0", {{1, 12, 48}, DType::f32, {}});
    const ValueId part = slice(b, x, 1, 3, 9);  // not along a rank's bounds
    const auto heads = [&](std::int64_t i) { return split_heads(b, slice(b, part, 2, i * 16, i * 16 + 16), 2); };
    const ValueId y = b.apply<AttentionOp>({heads(0), heads(1), heads(2)}, 0.35, false);
    b.output("y", b.apply<ReshapeOp>({y}, Shape{6 * 16}));
    return b.finish();
  };
  std::mt19937 engine(1);
  const Inputs inputs{{"x0", normal({1, 12, 48}, engine)}};
  for (const ParallelDegrees& degrees : kDegrees) {
    for (const auto& values : run_on_ranks(build, inputs, degrees))
      EXPECT_LT(relative_error(values, evaluate(build(), inputs)), 2e-6);
  }
  Graph split = build();
  const PassResult result = parallelize_sequence(split, {{1, 1, 1, 2}, {}});
  ASSERT_EQ(result.near_misses.size(), 1U);
  EXPECT_NE(result.near_misses[0].find("slice mixes tokens"), std::string::npos) << result.near_misses[0];
}

/// Text that is short has keys of its own: no message.
TEST(SequenceParallel, CrossAttentionSkipsMessages) {
  const auto build = [](bool causal) {
    GraphBuilder b;
    const ValueId x = b.input("x0", {{1, 13, 16}, DType::f32, {}});
    const ValueId text = b.input("text", {{1, 5, 16}, DType::f32, {}});
    const auto heads = [&](ValueId v) { return split_heads(b, v, 2); };
    b.output("y", join_heads(b, b.apply<AttentionOp>({heads(x), heads(text), heads(text)}, 0.35, causal)));
    return b.finish();
  };
  std::mt19937 engine(1);
  const Inputs inputs{{"x0", normal({1, 13, 16}, engine)}, {"text", normal({1, 5, 16}, engine)}};
  for (const bool causal : {false, true}) {
    for (const ParallelDegrees& degrees : kDegrees) {
      for (const auto& values : run_on_ranks([&] { return build(causal); }, inputs, degrees))
        EXPECT_LT(relative_error(values, evaluate(build(causal), inputs)), 2e-6);
    }
  }
  Graph split = build(false);
  parallelize_sequence(split, {{1, 1, 2, 2}, {}});
  EXPECT_EQ(exchanges_of(split), 1);  // the output's
}

}  // namespace
}  // namespace rondo::test
