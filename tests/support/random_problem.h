// Attention problems of every kind, drawn at random.
#pragma once

#include <fmt/format.h>

#include <array>
#include <initializer_list>
#include <random>
#include <string>

#include "attention/random_attention.h"

namespace rondo::test {

/// A problem and how its operands are drawn.
class RandomProblem {
 public:
  explicit RandomProblem(std::uint64_t seed) : engine_(static_cast<std::uint32_t>(seed)) {
    problem.batch = pick({1, 1, 2, 3});
    problem.key_heads = pick({1, 2, 3});
    problem.heads = problem.key_heads * pick({1, 1, 2, 4});
    problem.queries = pick({1, 2, 17, 33, 64, 129});
    problem.keys = pick({1, 3, 17, 129, 192, 193, 300, 1000});
    problem.head_dim = problem.value_dim = pick({1, 8, 40, 64, 72, 96, 128, 256});
    if (engine_() % 4 == 0) problem.value_dim = pick({1, 8, 40, 80, 256});
    problem.dtype = std::array{DType::f32, DType::bf16, DType::f16}[engine_() % 3];
    problem.layout = engine_() % 2 == 0 ? AttentionLayout::bsnd : AttentionLayout::bnsd;
    problem.own_scale = engine_() % 2 == 0;
    problem.causal = engine_() % 3 == 0;
    problem.lse = engine_() % 2 == 0;
    problem.varlen = engine_() % 5 == 0;
    if (!problem.varlen && engine_() % 2 == 0) {
      problem.mask = engine_() % 2 == 0 ? MaskKind::boolean : MaskKind::additive;
      problem.mask_batch = engine_() % 3 == 0;
      problem.mask_heads = engine_() % 3 == 0;
      problem.mask_queries = engine_() % 3 != 0;
    }
    sample.seed = seed;
    sample.padding = pick({0, 0, 1, 8});
    // Scores of 0.01, 1, 25 and more; products that are subnormal, and the largest that the dtype holds well.
    sample.spread = std::array{0.1, 1.0, 1.0, 5.0, 1e-20, 30.0}[engine_() % (problem.dtype == DType::f16 ? 4 : 6)];
  }

  /// The command that repeats it.
  std::string command(const std::string& backend) const {
    return fmt::format(
        "rondo bench attention --problem \"{}\" --seed {} --spread {} --padding {} --backend {} --check --runs 1",
        to_string(problem), sample.seed, sample.spread, sample.padding, backend);
  }

  AttentionProblem problem;
  AttentionSample sample;

 private:
  std::int64_t pick(std::initializer_list<std::int64_t> values) { return values.begin()[engine_() % values.size()]; }

  std::mt19937 engine_;
};

}  // namespace rondo::test
