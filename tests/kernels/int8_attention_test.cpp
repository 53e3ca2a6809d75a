// Attention on operands that are quantised on the way: the kernel against the float64 model of the same quantisation,
// and what the quantisation itself costs.
#include "attention/int8_attention.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "attention/attention_op.h"
#include "attention/attention_tolerance.h"
#include "backends/attention_backends.h"
#include "core/cpu_level.h"
#include "functional/random_forward.h"
#include "rondo/error.h"
#include "support/random_problem.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

class Int8Attention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cpu_level() < CpuLevel::avx512_vnni) GTEST_SKIP() << "needs a CPU level of avx512_vnni";
    options_.kv_cache_dtype = KvCacheDtype::int8;
  }
  AttentionOptions options_;
};

TEST_F(Int8Attention, RandomProblemsAgreeWithTheSameQuantisationInFloat64) {
  constexpr std::uint64_t kProblems = kSanitized ? 40 : 300;
  const std::uint64_t first = 10'000 + kProblems * static_cast<std::uint64_t>(cpu_level());
  for (std::uint64_t seed = first; seed < first + kProblems; ++seed) {
    RandomProblem random(seed);
    random.problem.kv_cache = KvCacheDtype::int8;
    random.problem.rotates = seed % 2 == 0;
    const RandomAttention operands(parse_attention_problem(to_string(random.problem)), random.sample);
    ASSERT_EQ(to_string(operands.problem), to_string(random.problem));
    AttentionOptions options;
    options.threads = static_cast<int>(1 + seed % 3);
    options.backend = "flash-int8";
    const AttentionTolerance tolerance =
        attention_tolerance(random.problem.dtype, KvCacheDtype::int8, false, operands.largest_score());
    EXPECT_EQ(compare_attention(forward(operands, options), reference_forward(operands), tolerance).failure, "")
        << random.command("flash-int8");
  }
}

TEST_F(Int8Attention, OnlyWhatTakesItRunsIt) {
  const Tensor x = random_tensor({1, 8, 1, 16}, DType::f32, 1);
  EXPECT_EQ(selected_attention_backend(x, x, x, {}, options_).name, "flash-int8");
  options_.backend = "flash";
  EXPECT_THROW(attention_forward(x, x, x, {}, options_), Unsupported);
  options_.kv_cache_dtype = KvCacheDtype::automatic;
  options_.backend = "flash-int8";
  EXPECT_THROW(attention_forward(x, x, x, {}, options_), Unsupported);
  options_.kv_cache_dtype = KvCacheDtype::int8;
  const Tensor wide = random_tensor({1, 8, 1, 513}, DType::f32, 1);
  EXPECT_THROW(attention_forward(wide, wide, wide, {}, options_), Unsupported);
}

TEST_F(Int8Attention, WhatIsNotFiniteAndWhatIsNothing) {
  Tensor q = random_tensor({1, 3, 1, 32}, DType::f32, 1);
  const Tensor k = random_tensor({1, 200, 1, 32}, DType::f32, 2);
  const Tensor v = random_tensor({1, 200, 1, 32}, DType::f32, 3);
  q.as<float>()[40] = std::numeric_limits<float>::quiet_NaN();  // in row 1
  options_.return_lse = true;
  const AttentionResult result = attention_forward(q, k, v, {}, options_);
  for (std::int64_t i = 0; i < 96; ++i)
    EXPECT_EQ(std::isfinite(result.output.as<float>()[i]), i / 32 != 1) << "element " << i;
  EXPECT_EQ(std::isfinite(result.lse.as<float>()[1]), false);
  // Rows that see nothing, operands of zeros.
  Tensor mask = Tensor::zeros({1, 1, 3, 200}, DType::boolean);
  for (std::int64_t j = 0; j < 200; ++j) mask.as<bool>()[400 + j] = true;
  const AttentionResult masked = attention_forward(Tensor::zeros({1, 3, 1, 32}, DType::f32), k, v, mask, options_);
  EXPECT_EQ(masked.lse.as<float>()[0], kNothing);
  EXPECT_EQ(masked.output.as<float>()[5], 0.0F);
  EXPECT_NEAR(masked.lse.as<float>()[2], std::log(200.0F), 1e-3);
  const AttentionResult zeros = attention_forward(q, k, Tensor::zeros({1, 200, 1, 32}, DType::f32), {}, options_);
  EXPECT_EQ(zeros.output.as<float>()[0], 0.0F);
}

TEST_F(Int8Attention, StatesOfPartsMerge) {
  const Tensor q = random_tensor({1, 40, 2, 64}, DType::f32, 1);
  const Tensor k = random_tensor({1, 512, 2, 64}, DType::f32, 2);
  const Tensor v = random_tensor({1, 512, 2, 64}, DType::f32, 3);
  options_.return_lse = true;
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    return attention_forward(q, k.sliced(1, begin, end), v.sliced(1, begin, end), {}, options_);
  };
  // Cut where blocks begin: the same integers, put together by others.
  const AttentionResult merged = merge_attention_states(part(0, 256), part(256, 512));
  EXPECT_LE(relative_error(merged.output, part(0, 512).output), 5e-3);
  EXPECT_LE(relative_error(merged.lse, part(0, 512).lse), 1e-4);
}

double cosine(const Tensor& a, const Tensor& b) {
  double dot = 0;
  double left = 0;
  double right = 0;
  for (std::int64_t i = 0; i < a.elements(); ++i) {
    const double x = a.as<float>()[i];
    const double y = b.as<float>()[i];
    dot += x * y;
    left += x * x;
    right += y * y;
  }
  return dot / std::sqrt(left * right);
}

TEST_F(Int8Attention, RotationBringsBackWhatOutliersCost) {
  const auto outliers = [](std::uint32_t seed) {
    Tensor x = random_tensor({1, 512, 2, 128}, DType::f32, seed);
    for (std::int64_t row = 0; row < x.shape().rows(); ++row) {
      for (const std::int64_t channel : {5, 77}) x.as<float>()[row * 128 + channel] *= 50;
    }
    return x;
  };
  const Tensor q = outliers(1);
  const Tensor k = outliers(2);
  const Tensor v = random_tensor({1, 512, 2, 128}, DType::f32, 3);
  options_.scale = 1.0 / 2000;  // scores of a few units
  AttentionOptions native = options_;
  native.kv_cache_dtype = KvCacheDtype::automatic;
  const Tensor exact = attention_forward(q, k, v, {}, native).output;
  const double rotated = cosine(attention_forward(q, k, v, {}, options_).output, exact);
  options_.rotate = false;
  const double plain = cosine(attention_forward(q, k, v, {}, options_).output, exact);
  EXPECT_GE(rotated, 0.999);
  EXPECT_LE(1 - rotated, (1 - plain) * 1.05);
  // Without outliers little is lost either way.
  const Tensor tame_q = random_tensor({1, 512, 2, 128}, DType::f32, 4);
  const Tensor tame_k = random_tensor({1, 512, 2, 128}, DType::f32, 5);
  native.scale = options_.scale = std::nullopt;
  EXPECT_GE(cosine(attention_forward(tame_q, tame_k, v, {}, options_).output,
                   attention_forward(tame_q, tame_k, v, {}, native).output),
            0.999);
}

TEST(RotateHead, IsOrthogonalForEveryWidth) {
  for (const std::size_t width : {1U, 2U, 7U, 40U, 64U, 72U, 96U, 128U, 200U, 256U}) {
    std::vector<std::vector<float>> rows;
    for (std::size_t i = 0; i < width; ++i) {
      std::vector<float> row(width);
      row[i] = 1;
      rotate_head(std::span(row));
      rows.push_back(row);
    }
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        const double dot = std::inner_product(rows[i].begin(), rows[i].end(), rows[j].begin(), 0.0);
        ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-6) << width;
      }
    }
  }
}

TEST(KvCachePolicy, IsSettledBeforeAnyWork) {
  KvCachePolicy policy;
  policy.dtype = KvCacheDtype::int8;
  policy.skip_layers = {0, 7};
  AttentionProblem layer;
  EXPECT_THROW(settle_kv_cache(policy, layer, 7, ""), InvalidArgument);
  if (cpu_level() >= CpuLevel::avx512_vnni) {
    EXPECT_TRUE(settle_kv_cache(policy, layer, 8, "").active());
    EXPECT_TRUE(settle_kv_cache(policy, layer, 8, "flash-int8").active());
    EXPECT_THROW(settle_kv_cache(policy, layer, 8, "flash"), Unsupported);
    layer.head_dim = 1024;
  }
  EXPECT_THROW(settle_kv_cache(policy, layer, 8, ""), Unsupported);
  policy.falls_back = true;
  const KvCachePolicy settled = settle_kv_cache(policy, layer, 8, "");
  EXPECT_FALSE(settled.active());
  EXPECT_NE(settled.fallback_reason.find("flash-int8"), std::string::npos);
}

}  // namespace
}  // namespace rondo::test
