#include "rondo/parallel_attention.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

#include "rondo/error.h"

namespace rondo::test {
namespace {

Tensor normal(const Shape& shape, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution;
  Tensor tensor = Tensor::empty(shape, DType::f32);
  std::generate_n(tensor.as<float>(), tensor.elements(), [&] { return distribution(engine); });
  return tensor;
}

ParallelOptions degrees(int ulysses, int ring) {
  ParallelOptions options;
  options.ulysses_degree = ulysses;
  options.ring_degree = ring;
  return options;
}

/// Each rank's result, one behind the other along the axis of tokens; `body` is given a rank's range of them.
Tensor on_ranks(std::span<const std::int64_t> counts, const ParallelOptions& options, std::size_t axis,
                const std::function<Tensor(ParallelAttention&, std::int64_t begin, std::int64_t end)>& body) {
  const auto worlds = ParallelWorld::threads(static_cast<int>(counts.size()));
  std::vector<Tensor> parts(counts.size());
  std::vector<std::string> errors(counts.size());
  std::vector<std::thread> threads;
  std::int64_t begin = 0;
  for (std::size_t rank = 0; rank < counts.size(); ++rank) {
    threads.emplace_back([&, rank, begin] {
      try {
        ParallelAttention attention(worlds[rank], options);
        for (int again = 0; again < 2; ++again) parts[rank] = body(attention, begin, begin + counts[rank]);
        worlds[rank]->finish();
      } catch (const std::exception& error) {
        errors[rank] = error.what();
        worlds[rank]->fail(error.what());
      }
    });
    begin += counts[rank];
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors) {
    if (!error.empty()) throw Error(error);
  }
  Shape shape = parts[0].shape();
  shape[axis] = begin;
  Tensor whole = Tensor::empty(shape, DType::f32);
  begin = 0;
  for (const Tensor& part : parts) {
    Tensor target = whole.sliced(axis, begin, begin + part.shape()[axis]);
    begin += part.shape()[axis];
    const std::int64_t inner = part.strides()[axis];
    const std::int64_t outer = part.elements() / std::max<std::int64_t>(1, inner * part.shape()[axis]);
    for (std::int64_t o = 0; o < outer; ++o) {
      std::copy_n(part.as<float>() + o * part.shape()[axis] * inner, part.shape()[axis] * inner,
                  target.as<float>() + o * shape[axis] * inner);
    }
  }
  return whole;
}

void expect_near(const Tensor& given, const Tensor& expected) {
  ASSERT_EQ(given.shape(), expected.shape());
  for (std::int64_t i = 0; i < given.elements(); ++i)
    ASSERT_NEAR(given.as<float>()[i], expected.as<float>()[i], 5e-6) << i;
}

const std::vector<std::int64_t> kCounts[]{{10, 13}, {0, 7}, {5, 1, 9}, {4, 0, 6, 3}};

TEST(ParallelAttention, IsThatOfOneRank) {
  for (const std::vector<std::int64_t>& counts : kCounts) {
    const std::int64_t tokens = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    const Tensor q = normal({2, tokens, 4, 16}, 1);
    const Tensor k = normal({2, tokens, 2, 16}, 2);
    const Tensor v = normal({2, tokens, 2, 24}, 3);
    const Tensor mask = normal({1, 4, tokens, tokens}, 4);
    const auto ranks = static_cast<int>(counts.size());
    for (const ParallelOptions& options :
         {degrees(ranks, 1), degrees(1, ranks), degrees(ranks == 4 ? 2 : ranks, ranks == 4 ? 2 : 1)}) {
      for (const bool causal : {false, true}) {
        AttentionOptions attention;
        attention.causal = causal;
        attention.scale = 0.3;
        for (const Tensor& bias : {Tensor(), mask}) {
          const Tensor expected = attention_forward(q, k, v, bias, attention).output;
          expect_near(on_ranks(counts, options, 1,
                               [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                                 return parallel
                                     .forward(q.sliced(1, begin, end), k.sliced(1, begin, end), v.sliced(1, begin, end),
                                              bias, attention)
                                     .output;
                               }),
                      expected);
          AttentionOptions with_lse = attention;
          with_lse.return_lse = true;
          const AttentionResult whole = attention_forward(q, k, v, bias, with_lse);
          for (const bool of_lse : {false, true}) {
            expect_near(on_ranks(counts, options, of_lse ? 2 : 1,
                                 [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                                   const AttentionResult result =
                                       parallel.forward(q.sliced(1, begin, end), k.sliced(1, begin, end),
                                                        v.sliced(1, begin, end), bias, with_lse);
                                   return of_lse ? result.lse : result.output;
                                 }),
                        of_lse ? whole.lse : whole.output);
          }
        }
        attention.layout = AttentionLayout::bnsd;
        const auto heads_first = [](const Tensor& tensor) { return tensor.transposed(1, 2); };
        expect_near(on_ranks(counts, options, 2,
                             [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                               return parallel
                                   .forward(heads_first(q.sliced(1, begin, end)), heads_first(k.sliced(1, begin, end)),
                                            heads_first(v.sliced(1, begin, end)), {}, attention)
                                   .output;
                             }),
                    attention_forward(heads_first(q), heads_first(k), heads_first(v), {}, attention).output);
      }
    }
  }
}

TEST(ParallelAttention, PackedSequencesCrossRanks) {
  for (const std::vector<std::int64_t>& counts : kCounts) {
    const auto tokens = static_cast<std::int32_t>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
    const Tensor q = normal({tokens, 4, 16}, 1);
    const Tensor k = normal({tokens, 2, 16}, 2);
    const Tensor v = normal({tokens, 2, 8}, 3);
    const auto ranks = static_cast<int>(counts.size());
    for (const std::vector<std::int32_t>& boundaries :
         {std::vector<std::int32_t>{0, tokens}, {0, 1, 1, 5, tokens}, {0, tokens / 2, tokens}}) {
      for (const ParallelOptions& options : {degrees(ranks, 1), degrees(1, ranks)}) {
        for (const bool causal : {false, true}) {
          VarlenAttentionOptions attention;
          attention.causal = causal;
          SCOPED_TRACE(::testing::Message() << "ranks " << ranks << ", ring " << options.ring_degree << ", causal "
                                            << causal << ", sequences " << boundaries.size() - 1);
          expect_near(on_ranks(counts, options, 0,
                               [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                                 const AttentionResult result =
                                     parallel.forward_varlen(q.sliced(0, begin, end), k.sliced(0, begin, end),
                                                             v.sliced(0, begin, end), boundaries, attention);
                                 EXPECT_FALSE(result.lse.defined());
                                 return result.output;
                               }),
                      attention_forward_varlen(q, k, v, boundaries, boundaries, attention).output);
          attention.return_lse = true;
          expect_near(on_ranks(counts, options, 1,
                               [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                                 return parallel
                                     .forward_varlen(q.sliced(0, begin, end), k.sliced(0, begin, end),
                                                     v.sliced(0, begin, end), boundaries, attention)
                                     .lse;
                               }),
                      attention_forward_varlen(q, k, v, boundaries, boundaries, attention).lse);
        }
      }
    }
  }
}

TEST(ParallelAttention, LseOfNarrowOperandsIsFloat32) {
  const Tensor x = normal({1, 9, 4, 16}, 1).to(DType::bf16);
  AttentionOptions attention;
  attention.return_lse = true;
  const AttentionResult whole = attention_forward(x, x, x, {}, attention);
  for (const ParallelOptions& options : {degrees(2, 1), degrees(1, 2)}) {
    for (const bool of_lse : {false, true}) {
      const Tensor given = on_ranks(std::array<std::int64_t, 2>{5, 4}, options, of_lse ? 2 : 1,
                                    [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                                      const Tensor own = x.sliced(1, begin, end);
                                      const AttentionResult result = parallel.forward(own, own, own, {}, attention);
                                      EXPECT_EQ(result.output.dtype(), DType::bf16);
                                      EXPECT_EQ(result.lse.dtype(), DType::f32);
                                      return of_lse ? result.lse : result.output.to_float32();
                                    });
      const Tensor expected = of_lse ? whole.lse : whole.output.to_float32();
      for (std::int64_t i = 0; i < given.elements(); ++i)
        ASSERT_NEAR(given.as<float>()[i], expected.as<float>()[i], of_lse ? 1e-3 : 0.02) << i;
    }
  }
}

TEST(ParallelAttention, RefusesWhatItCannot) {
  const Tensor x = normal({1, 6, 2, 8}, 1);
  const auto message = [&](const ParallelOptions& options, const AttentionOptions& attention, const Tensor& mask = {}) {
    try {
      on_ranks(std::array<std::int64_t, 2>{3, 3}, options, 1,
               [&](ParallelAttention& parallel, std::int64_t begin, std::int64_t end) {
                 const Tensor own = x.sliced(1, begin, end);
                 return parallel.forward(own, own, own, mask, attention).output;
               });
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("(no error)");
  };
  AttentionOptions attention;
  EXPECT_EQ(message(degrees(1, 2), attention), "(no error)");
  EXPECT_NE(message(degrees(3, 1), attention).find("makes 3 ranks and the world has 2"), std::string::npos);
  EXPECT_NE(message(degrees(1, 2), attention, normal({1, 1, 3, 6}, 1)).find("bias"), std::string::npos);
  attention.backend = "onednn-bf16";
  EXPECT_NE(message(degrees(1, 2), attention).find("onednn-bf16"), std::string::npos);
}

/// What one rank does otherwise is found by all, and they can go on.
TEST(ParallelAttention, RanksThatCallDifferentlyAllRefuse) {
  const auto worlds = ParallelWorld::threads(2);
  const Tensor x = normal({1, 3, 2, 8}, 1);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      ParallelAttention attention(worlds[static_cast<std::size_t>(rank)], degrees(1, 2));
      AttentionOptions options;
      options.causal = rank == 1;
      EXPECT_THROW(attention.forward(x, x, x, {}, options), InvalidArgument);
      options.causal = false;
      EXPECT_THROW(attention.forward(x, rank == 1 ? normal({1, 3, 2, 4}, 1) : x, x, {}, options), InvalidArgument);
      EXPECT_THROW(attention.forward(x, x, x, rank == 1 ? normal({1, 1, 3, 3}, 1) : Tensor(), options),
                   InvalidArgument);
      // A rank without tokens makes no attention, and would not notice.
      options.backend = "onednn-bf16";
      EXPECT_ANY_THROW(attention.forward(rank == 0 ? x : x.sliced(1, 0, 0), rank == 0 ? x : x.sliced(1, 0, 0),
                                         rank == 0 ? x : x.sliced(1, 0, 0), {}, options));
      options.backend = "";
      EXPECT_EQ(attention.forward(x, x, x, {}, options).output.shape(), x.shape());
      EXPECT_THROW(attention.forward_varlen(x.reshaped({3, 2, 8}), x.reshaped({3, 2, 8}), x.reshaped({3, 2, 8}),
                                            std::array<std::int32_t, 1>{0}),
                   InvalidArgument);
      worlds[static_cast<std::size_t>(rank)]->finish();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace rondo::test
