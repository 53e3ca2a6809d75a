// Attention on operands that are quantised on the way: the kernel against the float64 model of the same quantisation,
// and what the quantisation itself costs.
#include "attention/quantized_attention.h"

#include <array>
#include <bit>
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

/// Each dtype that operands are quantised to.
class QuantizedAttention : public ::testing::TestWithParam<KvCacheDtype> {
 protected:
  void SetUp() override { options_.kv_cache_dtype = GetParam(); }
  AttentionOptions options_;
};

/// Every kernel that takes it here.
std::vector<std::string> kernels_for(const AttentionProblem& problem) {
  std::vector<std::string> names;
  for (const AttentionBackendAnswer& answer : attention_registry().answers(problem)) {
    if (!answer.refusal && answer.name != "reference") names.push_back(answer.name);
  }
  return names;
}

TEST_P(QuantizedAttention, RandomProblemsAgreeWithTheSameQuantisationInFloat64) {
  constexpr std::uint64_t kProblems = kSanitized ? 40 : 300;
  const std::uint64_t first = 10'000 + kProblems * static_cast<std::uint64_t>(cpu_level());
  for (std::uint64_t seed = first; seed < first + kProblems; ++seed) {
    RandomProblem random(seed);
    random.problem.quantization = {GetParam(), seed % 2 == 0, seed % 3 == 0};
    const RandomAttention operands(parse_attention_problem(to_string(random.problem)), random.sample);
    ASSERT_EQ(to_string(operands.problem), to_string(random.problem));
    const AttentionResult wanted = reference_forward(operands);
    const AttentionTolerance tolerance =
        attention_tolerance(random.problem.dtype, GetParam(), false, operands.largest_score());
    const std::vector<std::string> kernels = kernels_for(operands.problem);
    ASSERT_FALSE(kernels.empty());
    for (const std::string& kernel : kernels) {
      AttentionOptions options;
      options.threads = static_cast<int>(1 + seed % 3);
      options.backend = kernel;
      EXPECT_EQ(compare_attention(forward(operands, options), wanted, tolerance).failure, "") << random.command(kernel);
    }
  }
}

TEST_P(QuantizedAttention, OnlyWhatTakesItRunsIt) {
  const Tensor x = random_tensor({1, 8, 1, 16}, DType::f32, 1);
  const std::string taken = selected_attention_backend(x, x, x, {}, options_).name;
  EXPECT_NE(taken, "reference");
  options_.backend = "flash";
  EXPECT_THROW(attention_forward(x, x, x, {}, options_), Unsupported);
  options_.kv_cache_dtype = KvCacheDtype::automatic;
  options_.backend = taken;
  EXPECT_THROW(attention_forward(x, x, x, {}, options_), Unsupported);
  options_.kv_cache_dtype = GetParam();
  const Tensor wide = random_tensor({1, 8, 1, 513}, DType::f32, 1);
  EXPECT_THROW(attention_forward(wide, wide, wide, {}, options_), Unsupported);
}

TEST_P(QuantizedAttention, WhatIsNotFiniteAndWhatIsNothing) {
  Tensor q = random_tensor({1, 3, 1, 32}, DType::f32, 1);
  const Tensor k = random_tensor({1, 200, 1, 32}, DType::f32, 2);
  const Tensor v = random_tensor({1, 200, 1, 32}, DType::f32, 3);
  q.as<float>()[40] = std::numeric_limits<float>::quiet_NaN();  // in row 1
  options_.return_lse = true;
  const AttentionResult result = attention_forward(q, k, v, {}, options_);
  // What shares a scale with it is lost as well: in e4m3 its neighbours.
  for (std::int64_t i = 0; i < 96; ++i) {
    const bool is_lost = GetParam() == KvCacheDtype::fp8 || i / 32 == 1;
    EXPECT_EQ(std::isfinite(result.output.as<float>()[i]), !is_lost) << "element " << i;
  }
  EXPECT_EQ(std::isfinite(result.lse.as<float>()[1]), false);
  q.as<float>()[40] = 0;
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

TEST_P(QuantizedAttention, NoNanIsLost) {
  // NaNs of every kind of bits, in a query and in a key that causality shows to the last queries only.
  for (const std::uint32_t bits : {0x7fc00000U, 0x7fffffffU, 0xffffffffU, 0x7f800001U}) {
    Tensor q = random_tensor({1, 300, 1, 64}, DType::f32, 1);
    Tensor k = random_tensor({1, 300, 1, 64}, DType::f32, 2);
    const Tensor v = random_tensor({1, 300, 1, 64}, DType::f32, 3);
    k.as<float>()[270 * 64 + 7] = std::bit_cast<float>(bits);
    options_.causal = true;
    for (const std::string& kernel : kernels_for({.head_dim = 64, .quantization = {GetParam(), false, false}})) {
      options_.backend = kernel;
      const Tensor of_key = attention_forward(q, k, v, {}, options_).output;
      options_.backend = "reference";
      const Tensor wanted = attention_forward(q, k, v, {}, options_).output;
      for (std::int64_t i = 0; i < of_key.elements(); ++i)
        ASSERT_EQ(std::isnan(of_key.as<float>()[i]), std::isnan(wanted.as<float>()[i])) << kernel << ", element " << i;
      EXPECT_TRUE(std::isnan(of_key.as<float>()[299 * 64])) << kernel;
    }
  }
}

TEST_P(QuantizedAttention, ValuesMayDifferByMuchFromBlockToBlock) {
  // All keys weigh the same: a third of the largest block is what comes out, however small the others are.
  const Tensor zeros = Tensor::zeros({1, 768, 1, 64}, DType::f32);
  const Tensor q = Tensor::zeros({1, 2, 1, 64}, DType::f32);
  for (const std::array<float, 3>& sizes :
       {std::array{1.0F, 1e-25F, 1e-35F}, std::array{1.0F, 1e-18F, 1e-36F}, std::array{1e-36F, 1e-18F, 1.0F},
        std::array{1e-12F, 1e-41F, 0.0F}, std::array{0.0F, 1e-35F, 1e30F}, std::array{1e30F, 1.0F, 1e-30F}}) {
    Tensor v = Tensor::zeros({1, 768, 1, 64}, DType::f32);
    for (std::int64_t i = 0; i < v.elements(); ++i) v.as<float>()[i] = sizes[static_cast<std::size_t>(i / (256 * 64))];
    const double wanted =
        static_cast<double>(sizes[0]) / 3 + static_cast<double>(sizes[1]) / 3 + static_cast<double>(sizes[2]) / 3;
    for (const std::string& kernel : kernels_for({.keys = 768, .quantization = {GetParam(), false, false}})) {
      options_.backend = kernel;
      const float given = attention_forward(q, zeros, v, {}, options_).output.as<float>()[0];
      EXPECT_NEAR(given / wanted, 1, 1e-3) << kernel << ": " << sizes[0] << " " << sizes[1] << " " << sizes[2];
    }
  }
}

TEST_P(QuantizedAttention, LargeScoresStayWithinTheIntegersRange) {
  // Eight keys that score alike, very high: whatever rounding does, the values' mean comes out.
  for (const float size : {100.0F, 1e3F, 3e3F, 1e4F}) {
    Tensor q = random_tensor({1, 16, 1, 64}, DType::f32, 1, size);
    Tensor k = Tensor::empty({1, 8, 1, 64}, DType::f32);
    for (std::int64_t i = 0; i < k.elements(); ++i) k.as<float>()[i] = q.as<float>()[i % 64];
    Tensor v = Tensor::zeros({1, 8, 1, 64}, DType::f32);
    for (std::int64_t i = 0; i < v.elements(); ++i) v.as<float>()[i] = 1;
    for (const std::string& kernel : kernels_for({.keys = 8, .quantization = {GetParam(), false, false}})) {
      options_.backend = kernel;
      const Tensor output = attention_forward(q, k, v, {}, options_).output;
      for (std::int64_t i = 0; i < output.elements(); ++i)
        ASSERT_NEAR(output.as<float>()[i], 1, 1e-2) << kernel << ", size " << size << ", element " << i;
    }
  }
}

TEST_P(QuantizedAttention, EveryWidthAndScale) {
  for (const char* problem : {"q=1x2x33x7 kv=130", "q=2x4x17x200 kv=300 kv_heads=2", "q=1x1x65x512 kv=257 v_dim=3",
                              "q=1x2x40x3 kv=1 v_dim=512", "q=1x3x31x130 kv=500 causal=1"}) {
    for (const bool rotates : {false, true}) {
      AttentionProblem parsed = parse_attention_problem(problem);
      parsed.lse = true;
      parsed.quantization = {GetParam(), rotates, rotates};
      for (const double scale : {0.1, -0.1, 0.0}) {
        RandomAttention operands(parsed, {.seed = 5});
        operands.scale = scale;
        const AttentionResult wanted = reference_forward(operands);
        for (const std::string& kernel : kernels_for(parsed)) {
          AttentionOptions options;
          options.backend = kernel;
          EXPECT_EQ(compare_attention(forward(operands, options), wanted,
                                      attention_tolerance(DType::f32, GetParam(), false, operands.largest_score()))
                        .failure,
                    "")
              << kernel << ", " << to_string(parsed) << ", scale " << scale;
        }
      }
    }
  }
}

TEST_P(QuantizedAttention, StatesOfPartsMerge) {
  const Tensor q = random_tensor({1, 40, 2, 64}, DType::f32, 1);
  const Tensor k = random_tensor({1, 512, 2, 64}, DType::f32, 2);
  const Tensor v = random_tensor({1, 512, 2, 64}, DType::f32, 3);
  options_.return_lse = true;
  options_.smooth_k = false;  // each part has a mean of its own
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

TEST_P(QuantizedAttention, WeightsAreRoundedAsTheDtypeSays) {
  // Two keys that weigh 1 and 0.7; values pick them out. e4m3 has 0.6875 in place of 0.7, integers are much closer.
  const Tensor q = Tensor::zeros({1, 1, 1, 8}, DType::f32);
  Tensor v = Tensor::zeros({1, 2, 1, 8}, DType::f32);
  v.as<float>()[0] = v.as<float>()[9] = 1;
  Tensor mask = Tensor::zeros({1, 1, 1, 2}, DType::f32);
  mask.as<float>()[1] = std::log(0.7F);
  const double second = GetParam() == KvCacheDtype::fp8 ? 0.6875 : 0.7;
  for (const std::string& kernel : kernels_for({.keys = 2, .quantization = {GetParam(), false, false}})) {
    options_.backend = kernel;
    const Tensor output = attention_forward(q, Tensor::zeros({1, 2, 1, 8}, DType::f32), v, mask, options_).output;
    EXPECT_NEAR(output.as<float>()[1], second / (1 + second), 1e-3) << kernel;
  }
}

TEST_P(QuantizedAttention, LosesLittleOnNormalNoise) {
  const Tensor q = random_tensor({1, 512, 2, 128}, DType::f32, 4);
  const Tensor k = random_tensor({1, 512, 2, 128}, DType::f32, 5);
  const Tensor v = random_tensor({1, 512, 2, 128}, DType::f32, 3);
  const Tensor exact = attention_forward(q, k, v).output;
  EXPECT_GE(cosine(attention_forward(q, k, v, {}, options_).output, exact),
            GetParam() == KvCacheDtype::fp8 ? 0.998 : 0.999);
}

TEST_P(QuantizedAttention, RotationAndSmoothingBringBackWhatOutliersCost) {
  // Two channels of the keys stand out alike in every key: scores do not see them, scales do.
  Tensor k = random_tensor({1, 512, 2, 128}, DType::f32, 2);
  for (std::int64_t row = 0; row < k.shape().rows(); ++row) {
    for (const std::int64_t channel : {5, 77}) k.as<float>()[row * 128 + channel] += 50;
  }
  const Tensor q = random_tensor({1, 512, 2, 128}, DType::f32, 1);
  const Tensor v = random_tensor({1, 512, 2, 128}, DType::f32, 3);
  const Tensor exact = attention_forward(q, k, v).output;
  const auto lost = [&](bool rotate, bool smooth_k) {
    options_.rotate = rotate;
    options_.smooth_k = smooth_k;
    return 1 - cosine(attention_forward(q, k, v, {}, options_).output, exact);
  };
  const double plain = lost(false, false);
  if (GetParam() == KvCacheDtype::int8) {
    EXPECT_LE(lost(true, false), plain / 4);
  }
  EXPECT_LE(lost(false, true), plain / 4);
  EXPECT_LE(lost(true, true), GetParam() == KvCacheDtype::fp8 ? 2e-3 : 1e-3);
}

TEST_P(QuantizedAttention, SmoothingLeavesTheLseAlone) {
  const Tensor q = random_tensor({1, 40, 4, 64}, DType::f32, 1);
  Tensor k = random_tensor({1, 300, 2, 64}, DType::f32, 2);
  for (std::int64_t i = 0; i < k.elements(); ++i) k.as<float>()[i] += 3;
  const Tensor v = random_tensor({1, 300, 2, 64}, DType::f32, 3);
  options_.return_lse = true;
  options_.smooth_k = true;
  AttentionOptions native;
  native.return_lse = true;
  EXPECT_LE(relative_error(attention_forward(q, k, v, {}, options_).lse, attention_forward(q, k, v, {}, native).lse),
            1e-2);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, QuantizedAttention, ::testing::Values(KvCacheDtype::int8, KvCacheDtype::fp8),
                         [](const auto& instance) { return std::string(kv_cache_dtype_name(instance.param)); });

TEST(Int8Attention, BlocksOfValuesThatNobodySeesDoNotMatter) {
  const Tensor q = random_tensor({1, 3, 1, 32}, DType::f32, 1);
  const Tensor k = random_tensor({1, 300, 1, 32}, DType::f32, 2);
  Tensor v = random_tensor({1, 300, 1, 32}, DType::f32, 3);
  v.as<float>()[280 * 32] = std::numeric_limits<float>::infinity();
  Tensor mask = Tensor::zeros({1, 1, 1, 300}, DType::boolean);
  std::fill_n(mask.as<bool>(), 256, true);
  AttentionOptions options;
  options.kv_cache_dtype = KvCacheDtype::int8;
  const Tensor output = attention_forward(q, k, v, mask, options).output;
  for (std::int64_t i = 0; i < output.elements(); ++i) ASSERT_TRUE(std::isfinite(output.as<float>()[i]));
}

TEST(KeyMean, IsOfEveryKey) {
  const std::vector<float> rows{1, 10, 2, 20, 3, 60};
  EXPECT_EQ(key_mean(rows, 2), (std::vector<float>{2, 30}));
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
  policy.quantization = attention_quantization(KvCacheDtype::int8, true, false);
  policy.skip_layers = {0, 7};
  AttentionProblem layer;
  EXPECT_THROW(settle_kv_cache(policy, layer, 7, {}), InvalidArgument);
  EXPECT_TRUE(settle_kv_cache(policy, layer, 8, {}).active());
  EXPECT_TRUE(settle_kv_cache(policy, layer, 8, {"flash-int8"}).active());
  EXPECT_THROW(settle_kv_cache(policy, layer, 8, {"flash"}), Unsupported);
  layer.head_dim = 1024;
  EXPECT_THROW(settle_kv_cache(policy, layer, 8, {}), Unsupported);
  policy.falls_back = true;
  const KvCachePolicy settled = settle_kv_cache(policy, layer, 8, {});
  EXPECT_FALSE(settled.active());
  EXPECT_NE(settled.fallback_reason.find("flash-int8"), std::string::npos);
}

}  // namespace
}  // namespace rondo::test
