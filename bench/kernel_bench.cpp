// Single operators at the shapes of FLUX-width models: GFLOP/s of products and attention, GB/s of the rest.
#include <benchmark/benchmark.h>

#include "attention/attention_op.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "models/layers.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo {
namespace {

using Build = void (*)(GraphBuilder& builder, DType dtype);

/// Times the graph that `build` makes. Its inputs are zero, which no kernel here takes a short cut for.
void run_graph(benchmark::State& state, Build build, DType dtype) {
  if (dtype == DType::bf16 && !has_native_bf16()) return state.SkipWithError("no bfloat16 products at this CPU level");
  GraphBuilder builder;
  build(builder, dtype);
  const Graph graph = builder.finish();
  Model model(std::make_shared<const RandomWeights>(graph));
  PlanOptions options;
  options.target.threads = default_threads();
  Session session(model.plan("bench", options, [&] { return graph; }));
  std::size_t bytes = 0;
  for (const NamedValue& input : graph.inputs) {
    Tensor target = session.input(input.name);
    std::fill_n(target.as<std::byte>(), target.bytes(), std::byte{0});
    bytes += target.bytes();
  }
  for (const NamedValue& output : graph.outputs) bytes += session.output(output.name).bytes();
  for (auto step : state) session.run({});
  double flops = 0;
  for (const Node& node : graph.nodes) flops += node.op->flops(graph.input_types(node));
  state.counters[flops > 0 ? "GFLOP/s" : "GB/s"] = benchmark::Counter(
      (flops > 0 ? flops : static_cast<double>(bytes)) * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

template <std::int64_t Heads, std::int64_t Dim, std::int64_t Queries, std::int64_t Keys>
void attention(GraphBuilder& b, DType dtype) {
  const ValueId q = b.input("q", {{1, Queries, Heads, Dim}, dtype, {}});
  const ValueId k = b.input("k", {{1, Keys, Heads, Dim}, dtype, {}});
  const ValueId v = b.input("v", {{1, Keys, Heads, Dim}, dtype, {}});
  b.output("y", b.apply<AttentionOp>({q, k, v}, 0.1, false));
}

template <std::int64_t Rows, std::int64_t In, std::int64_t Out>
void product(GraphBuilder& b, DType dtype) {
  b.output("y", linear(Scope(b, dtype, "layer"), b.input("x", {{1, Rows, In}, dtype, {}}), Out));
}

ValueId tokens(GraphBuilder& b, const char* name, DType dtype) { return b.input(name, {{1, 1536, 3072}, dtype, {}}); }

void layer_norm_rows(GraphBuilder& b, DType dtype) {
  b.output("y", b.apply<LayerNormOp>({tokens(b, "x", dtype)}, 1e-6));
}
void gelu_rows(GraphBuilder& b, DType dtype) {
  b.output("y", activation(b, tokens(b, "x", dtype), ActivationKind::gelu_tanh));
}
void gated_add_rows(GraphBuilder& b, DType dtype) {
  b.output("y", b.apply<GatedAddOp>(
                    {tokens(b, "r", dtype), b.input("gate", {{1, 3072}, dtype, {}}), tokens(b, "x", dtype)}));
}
void rope_rows(GraphBuilder& b, DType dtype) {
  const ValueId x = b.input("x", {{1, 1536, 24, 128}, dtype, {}});
  const ValueId table = b.input("table", {{1536, 64}, DType::f32, {}});
  b.output("y", b.apply<RopeOp>({x, table, table}));
}

void register_all() {
  const std::pair<const char*, Build> cases[]{
      {"attention/24x128x1024x1024", attention<24, 128, 1024, 1024>},
      {"attention/16x72x1024x1024", attention<16, 72, 1024, 1024>},
      {"attention/2x64x77x77", attention<2, 64, 77, 77>},
      {"linear/1024x3072x3072", product<1024, 3072, 3072>},
      {"linear/1024x3072x12288", product<1024, 3072, 12288>},
      {"linear/1x3072x18432", product<1, 3072, 18432>},
      {"layer_norm/1536x3072", layer_norm_rows},
      {"gelu_tanh/1536x3072", gelu_rows},
      {"gated_add/1536x3072", gated_add_rows},
      {"rope/1536x24x128", rope_rows},
  };
  for (const auto& [name, build] : cases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const std::string full = std::string(name) + "/" + std::string(dtype_name(dtype));
      benchmark::RegisterBenchmark(full.c_str(),
                                   [build = build, dtype](benchmark::State& state) { run_graph(state, build, dtype); })
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace
}  // namespace rondo

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("cpu_level", std::string(rondo::cpu_level_name(rondo::cpu_level())));
  rondo::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
