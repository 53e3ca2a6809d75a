// Attention through the public functions: every kernel against the float64 one, over random problems and by hand.
#include "rondo/attention.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "attention/attention_op.h"
#include "attention/attention_tolerance.h"
#include "attention/quantized_attention.h"
#include "attention/random_attention.h"
#include "attention/reference_attention.h"
#include "backends/attention_backends.h"
#include "core/cpu_level.h"
#include "functional/random_forward.h"
#include "support/devices.h"
#include "support/random_problem.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// Compares [.., D] row by row. A row's scale is its largest value, but at least a fiftieth of a value's usual size
/// (1): rounding is relative to the values that cancelled.
void expect_rows_near(const Tensor& actual, const Tensor& expected, double error, const std::string& what) {
  ASSERT_EQ(actual.shape().to_string(), expected.shape().to_string()) << what;
  const Tensor a = actual.to_float32();
  const Tensor e = expected.to_float32();
  const std::int64_t width = a.shape().back();
  std::int64_t beyond = 0;
  for (std::int64_t row = 0; row < a.shape().rows(); ++row) {
    double most = 0.1;
    for (std::int64_t d = 0; d < width; ++d) most = std::max<double>(most, std::fabs(e.as<float>()[row * width + d]));
    for (std::int64_t d = 0; d < width; ++d) {
      const double x = a.as<float>()[row * width + d];
      const double y = e.as<float>()[row * width + d];
      if (std::isnan(y)) {
        ASSERT_TRUE(std::isnan(x)) << what << ": row " << row << " lost a NaN";
        continue;
      }
      ASSERT_LE(std::fabs(x - y), 10 * error * most)
          << what << ": row " << row << ", column " << d << ": " << x << " for " << y;
      beyond += std::fabs(x - y) > error * most;
    }
  }
  EXPECT_LE(static_cast<double>(beyond), 1e-3 * static_cast<double>(a.elements()) + 1) << what;
}

void expect_lse_near(const Tensor& actual, const Tensor& expected, const std::string& what, double error = 2e-5) {
  ASSERT_EQ(actual.shape().to_string(), expected.shape().to_string()) << what;
  for (std::int64_t i = 0; i < actual.elements(); ++i) {
    const float x = actual.as<float>()[i];
    const float y = expected.as<float>()[i];
    if (std::isinf(y) || std::isnan(y)) {
      ASSERT_TRUE(x == y || (std::isnan(x) && std::isnan(y))) << what << ": " << x << " for " << y;
    } else {
      ASSERT_NEAR(x, y, error * std::max(1.0F, std::fabs(y))) << what;
    }
  }
}

// Each level draws problems of its own: together they are thousands.
TEST(Attention, RandomProblemsAgreeWithFloat64) {
  const std::uint64_t kProblems = kSanitized || !test_device().is_cpu() ? 60 : 500;
  const std::uint64_t first = kProblems * static_cast<std::uint64_t>(cpu_level());
  std::uint64_t ran = 0;
  for (std::uint64_t seed = first; seed < first + kProblems; ++seed) {
    const RandomProblem random(seed);
    // As it is written in the command: the text must say everything.
    const RandomAttention operands(parse_attention_problem(to_string(random.problem)), random.sample);
    ASSERT_EQ(to_string(operands.problem), to_string(random.problem));
    const RandomAttention placed = on_test_device(operands);
    AttentionOptions options;
    options.threads = static_cast<int>(1 + seed % 3);
    const AttentionResult expected = reference_forward(operands);
    const double largest_score = operands.largest_score();
    for (const auto& kernel : attention_registry().kernels()) {
      options.backend = kernel->name();
      if (options.backend == "reference" || attention_registry().answer(*kernel, placed.problem)) continue;
      AttentionTolerance tolerance = attention_tolerance(random.problem.dtype, random.problem.quantization.dtype,
                                                         kernel->rounds_weights(), largest_score);
      // Operands that are rounded to float16 on the way: as much as bfloat16 weights, more in the LSE.
      if (!test_device_keeps_f32()) {
        tolerance = attention_tolerance(DType::bf16, random.problem.quantization.dtype, true, largest_score);
        tolerance.lse *= 10;
      }
      const AttentionResult actual = on_cpu(forward(placed, options));
      EXPECT_EQ(actual.lse.defined(), random.problem.lse);
      EXPECT_EQ(compare_attention(actual, expected, tolerance).failure, "") << random.command(options.backend);
      ++ran;
    }
  }
  // Some chips compute in two of the three dtypes only.
  EXPECT_GE(ran, test_device().is_cpu() ? kProblems : kProblems / 2);
}

// A NaN in a query, a query that sees nothing, one whose mask is the lowest number, scores that overflow a narrow
// exp().
TEST(Attention, RandomProblemsWithRowsOfTheirOwnAgreeWithFloat64) {
  for (const char* text : {"q=2x2x67x64 kv=130 mask=boolean lse=1", "q=1x2x67x128 kv=70 mask=additive lse=1",
                           "q=1x2x33x40 kv=70 mask=boolean causal=1 lse=1", "q=1x2x90x256 kv=33 causal=1 lse=1"}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      AttentionProblem problem = parse_attention_problem(text);
      problem.dtype = dtype;
      RandomAttention operands(problem);
      const auto change = [](Tensor& x, std::int64_t row, float value) {
        if (x.dtype() == DType::boolean) {
          std::fill_n(x.as<bool>() + row * x.shape().back(), x.shape().back(), false);
          return;
        }
        Tensor wide = x.to_float32();
        const std::int64_t width = x.elements() / x.shape().rows();
        for (std::int64_t i = row * width; i < (row + 1) * width; ++i) wide.as<float>()[i] = value;
        x = wide.to(x.dtype());
      };
      const std::int64_t rows = operands.query.shape().rows();  // the last sees all keys
      change(operands.query, rows - 1, std::numeric_limits<float>::quiet_NaN());
      const bool keeps_f32 = test_device_keeps_f32();
      const bool narrow = dtype == DType::f16 || !keeps_f32;
      change(operands.query, rows - 8, narrow ? 1000.0F : 1e6F);
      if (problem.mask == MaskKind::boolean) change(operands.mask, 3, 0);
      if (problem.mask == MaskKind::additive) {
        change(operands.mask, 3, -std::numeric_limits<float>::infinity());
        change(operands.mask, 5, narrow ? -65504.0F : -3.3e38F);
      }
      const AttentionResult expected = reference_forward(operands);
      const RandomAttention placed = on_test_device(operands);
      for (const auto& kernel : attention_registry().kernels()) {
        if (kernel->name() == "reference" || attention_registry().answer(*kernel, placed.problem)) continue;
        AttentionOptions options;
        options.backend = kernel->name();
        AttentionTolerance tolerance = attention_tolerance(keeps_f32 ? dtype : DType::bf16, KvCacheDtype::automatic,
                                                           true, operands.largest_score());
        if (!keeps_f32) tolerance.lse *= 10;
        EXPECT_EQ(compare_attention(on_cpu(forward(placed, options)), expected, tolerance).failure, "")
            << kernel->name() << ": " << to_string(problem);
      }
    }
  }
}

// On the CPU quantized_attention_test.cpp has its own.
TEST(Attention, RandomProblemsInE4m3AgreeWithFloat64) {
  if (test_device().is_cpu()) GTEST_SKIP() << "for devices";
  int ran = 0;
  for (std::uint64_t seed = 0; seed < 300 && ran < 40; ++seed) {
    RandomProblem random(seed);
    random.problem.quantization = {KvCacheDtype::fp8, seed % 2 == 0, seed % 3 == 0};
    const RandomAttention operands(parse_attention_problem(to_string(random.problem)), random.sample);
    const RandomAttention placed = on_test_device(operands);
    for (const auto& kernel : attention_registry().kernels()) {
      if (attention_registry().answer(*kernel, placed.problem)) continue;
      AttentionOptions options;
      options.backend = kernel->name();
      const AttentionTolerance tolerance = attention_tolerance(random.problem.dtype, KvCacheDtype::fp8,
                                                               kernel->rounds_weights(), operands.largest_score());
      const AttentionResult expected = reference_forward(operands, kernel->scales_whole_tensors());
      EXPECT_EQ(compare_attention(on_cpu(forward(placed, options)), expected, tolerance).failure, "")
          << random.command(options.backend);
      ++ran;
    }
  }
  // CMakeLists.txt says which devices have attention in e4m3; of real ones nobody knows before.
  const char* const has_e4m3 = std::getenv("RONDO_TEST_E4M3_ATTENTION");
  if (has_e4m3 == nullptr && ran == 0) GTEST_SKIP() << "the device has no attention in e4m3";
  if (has_e4m3 != nullptr) {
    EXPECT_EQ(ran >= 8, std::string_view(has_e4m3) == "yes") << ran << " problems ran";
  }
}

// A hop of a ring adds up in float32, whatever its operands are.
TEST(Attention, OutputsInFloat32RoundToThoseOfTheDtype) {
  int ran = 0;
  for (const char* text :
       {"q=2x4x129x72 kv=300 kv_heads=2 lse=1", "q=1x3x64x128 kv=200 causal=1 lse=1",
        "q=1x2x65x64 kv=150 lse=1 kv_cache=int8", "q=1x2x65x72 kv=150 lse=1 kv_cache=fp8 rotation=1"}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      AttentionProblem problem = parse_attention_problem(text);
      problem.dtype = dtype;
      const RandomAttention operands(problem);
      for (const auto& kernel : attention_registry().kernels()) {
        if (attention_registry().answer(*kernel, problem)) continue;
        const auto run = [&](DType output) {
          AttentionCall call = operands.call(2);
          call.output = Tensor::empty(call.output.shape(), output);
          const auto runner = kernel->make(problem, {}, 2);
          Tensor scratch = Tensor::empty({static_cast<std::int64_t>(runner->scratch_bytes())}, DType::u8);
          runner->run(call, {scratch.as<std::byte>(), scratch.bytes()});
          return call.output;
        };
        const Tensor narrow = run(dtype);
        const Tensor rounded = run(DType::f32).to(dtype);
        EXPECT_TRUE(
            std::equal(narrow.as<std::byte>(), narrow.as<std::byte>() + narrow.bytes(), rounded.as<std::byte>()))
            << kernel->name() << ": " << to_string(problem);
        ++ran;
      }
    }
  }
  EXPECT_GE(ran, 12);
}

// Tilings are chosen by measurement: each must give the right result.
TEST(Attention, EveryTilingAgreesWithFloat64) {
  for (const char* text : {"q=2x4x129x72 kv=1000 kv_heads=2 mask=boolean", "q=1x3x300x40 kv=700 causal=1 lse=1",
                           "q=3x2x200x64 kv=600 varlen=1 lse=1", "q=2x4x65x64 kv=130 kv_heads=2 layout=bnsd lse=1",
                           "q=2x4x1x64 kv=130 kv_heads=2", "q=2x4x300x64 kv=700 kv_heads=2 kv_cache=fp8 rotation=1",
                           "q=1x3x129x128 kv=257 kv_cache=fp8 rotation=1 smooth_k=1", "q=2x2x17x96 kv_cache=fp8"}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      AttentionProblem problem = parse_attention_problem(text);
      problem.dtype = dtype;
      const RandomAttention operands(problem);
      const RandomAttention placed = on_test_device(operands);
      for (const auto& kernel : attention_registry().kernels()) {
        if (attention_registry().answer(*kernel, placed.problem)) continue;
        const bool wide = test_device_keeps_f32();
        AttentionCall expected = operands.call(2);
        if (kernel->scales_whole_tensors())
          reference_quantized_runner(problem.quantization, true)->run(expected, {});
        else
          reference_attention_kernel()->make(problem, {}, 2)->run(expected, {});
        const AttentionTolerance tolerance = attention_tolerance(wide ? dtype : DType::bf16, problem.quantization.dtype,
                                                                 !wide || kernel->rounds_weights(), 1);
        for (const AttentionTiling& tiling : kernel->tilings(placed.problem)) {
          const auto runner = kernel->make(placed.problem, tiling, 2);
          AttentionResult actual = run_on_test_device(*runner, placed);
          if (!wide) actual.lse = {};
          EXPECT_EQ(compare_attention(actual, {expected.output, wide ? expected.lse : Tensor()}, tolerance).failure, "")
              << kernel->name() << to_string(tiling) << ": " << text;
        }
      }
    }
  }
}

TEST(Attention, HeadDimsAndLengths) {
  for (const std::int64_t width : {1, 2, 7, 64, 72, 96, 128, 256, 512}) {
    for (const std::int64_t tokens : {1, 17, 129}) {
      const Tensor q = random_tensor({1, tokens, 2, width}, DType::f32, 1);
      const Tensor k = random_tensor({1, 300, 2, width}, DType::f32, 2);
      const Tensor v = random_tensor({1, 300, 2, width}, DType::f32, 3);
      AttentionOptions options;
      options.backend = "reference";
      const AttentionResult expected = attention_forward(q, k, v, {}, options);
      options.backend = "flash";
      expect_rows_near(attention_forward(q, k, v, {}, options).output, expected.output, 1e-5, q.shape().to_string());
    }
  }
}

TEST(Attention, ThreeAxesWithHeads) {
  const Tensor q = random_tensor({2, 9, 4 * 24}, DType::f32, 1);
  const Tensor k = random_tensor({2, 33, 2 * 24}, DType::f32, 2);
  const Tensor v = random_tensor({2, 33, 2 * 8}, DType::f32, 3);
  AttentionOptions options;
  options.layout = AttentionLayout::bsh;
  options.num_heads = 4;
  const Tensor flat = attention_forward(q, k, v, {}, options).output;
  EXPECT_EQ(flat.shape(), (Shape{2, 9, 32}));
  const AttentionResult expected =
      attention_forward(q.reshaped({2, 9, 4, 24}), k.reshaped({2, 33, 2, 24}), v.reshaped({2, 33, 2, 8}));
  expect_rows_near(flat.reshaped({2, 9, 4, 8}), expected.output, 1e-6, "BSH");
  options.num_heads = 0;
  EXPECT_THROW(attention_forward(q, k, v, {}, options), InvalidArgument);
  options.num_heads = 5;
  EXPECT_THROW(attention_forward(q, k, v, {}, options), InvalidArgument);
}

TEST(Attention, AQueryThatSeesNothingGivesZero) {
  const Tensor q = random_tensor({1, 20, 1, 16}, DType::f32, 1);
  const Tensor k = random_tensor({1, 7, 1, 16}, DType::f32, 2);
  AttentionOptions options;
  options.causal = true;  // 20 queries, 7 keys: the first 13 see nothing
  options.return_lse = true;
  for (const char* backend : {"flash", "reference"}) {
    options.backend = backend;
    const AttentionResult result = attention_forward(q, k, k, {}, options);
    for (std::int64_t i = 0; i < 13 * 16; ++i) EXPECT_EQ(result.output.as<float>()[i], 0.0F) << backend;
    EXPECT_NE(result.output.as<float>()[13 * 16], 0.0F) << backend;
    for (std::int64_t i = 0; i < 13; ++i) EXPECT_EQ(result.lse.as<float>()[i], kNothing) << backend;
    EXPECT_NE(result.lse.as<float>()[13], kNothing) << backend;
    const Tensor none = random_tensor({1, 0, 1, 16}, DType::f32, 1);
    const AttentionResult empty = attention_forward(q, none, none, {}, options);
    for (std::int64_t i = 0; i < 20 * 16; ++i) EXPECT_EQ(empty.output.as<float>()[i], 0.0F) << backend;
    EXPECT_EQ(empty.lse.as<float>()[0], kNothing) << backend;
    EXPECT_EQ(attention_forward(none, k, k, {}, options).output.elements(), 0) << backend;
  }
}

TEST(Attention, TheLowestNumberHidesNothingWhereAllHaveIt) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor q = random_tensor({1, 40, 2, 16}, dtype, 1);
    const Tensor k = random_tensor({1, 70, 2, 16}, dtype, 2);
    Tensor mask = Tensor::empty({1, 1, 40, 70}, DType::f32);
    std::fill_n(mask.as<float>(), mask.elements(), std::numeric_limits<float>::lowest());
    for (std::int64_t i = 0; i < 20 * 70; ++i) mask.as<float>()[i] = i % 3 == 0 ? 0.0F : mask.as<float>()[i];
    AttentionOptions options;
    options.backend = "reference";
    const AttentionResult expected = attention_forward(q, k, k, mask, options);
    for (const AttentionBackendAnswer& answer : attention_backends(q, k, k, mask, {})) {
      if (answer.refusal) continue;
      options.backend = answer.name;
      const bool rounds = attention_registry().find(answer.name, "test")->rounds_weights();
      EXPECT_EQ(compare_attention(attention_forward(q, k, k, mask, options), expected,
                                  attention_tolerance(dtype, KvCacheDtype::automatic, rounds, 1))
                    .failure,
                "")
          << answer.name;
    }
  }
}

TEST(Attention, NanStaysInItsRow) {
  Tensor q = random_tensor({1, 40, 1, 16}, DType::f32, 1);
  const Tensor k = random_tensor({1, 200, 1, 16}, DType::f32, 2);
  q.as<float>()[3 * 16 + 5] = std::numeric_limits<float>::quiet_NaN();
  AttentionOptions options;
  options.return_lse = true;
  const AttentionResult result = attention_forward(q, k, k, {}, options);
  for (std::int64_t row = 0; row < 40; ++row) {
    for (std::int64_t d = 0; d < 16; ++d)
      EXPECT_EQ(std::isnan(result.output.as<float>()[row * 16 + d]), row == 3) << row;
    EXPECT_EQ(std::isnan(result.lse.as<float>()[row]), row == 3) << row;
  }
}

TEST(Attention, LargeScores) {
  for (const double size : {10.0, 100.0, 1e4}) {
    Tensor q = random_tensor({1, 17, 1, 64}, DType::f32, 1);
    const Tensor k = random_tensor({1, 129, 1, 64}, DType::f32, 2);
    AttentionOptions options;
    options.scale = size / 20;  // products of 64 terms reach about 20
    options.return_lse = true;
    options.backend = "reference";
    const AttentionResult expected = attention_forward(q, k, k, {}, options);
    options.backend = "flash";
    const AttentionResult actual = attention_forward(q, k, k, {}, options);
    expect_rows_near(actual.output, expected.output, 1e-5 * std::max(1.0, size / 100), fmt::format("scores {}", size));
    expect_lse_near(actual.lse, expected.lse, fmt::format("scores {}", size));
  }
}

TEST(Attention, VarlenEqualsEachSequenceAlone) {
  const std::vector<std::int32_t> cu_q{0, 5, 5, 70, 71};
  const std::vector<std::int32_t> cu_k{0, 40, 47, 47, 250};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool causal : {false, true}) {
      const Tensor q = random_tensor({71, 4, 40}, dtype, 1);
      const Tensor k = random_tensor({250, 2, 40}, dtype, 2);
      const Tensor v = random_tensor({250, 2, 24}, dtype, 3);
      VarlenAttentionOptions options;
      options.causal = causal;
      options.return_lse = true;
      const AttentionResult packed = attention_forward_varlen(q, k, v, cu_q, cu_k, options);
      ASSERT_EQ(packed.output.shape(), (Shape{71, 4, 24}));
      ASSERT_EQ(packed.lse.shape(), (Shape{4, 71}));
      for (std::size_t i = 0; i + 1 < cu_q.size(); ++i) {
        const auto part = [&](const Tensor& t, const std::vector<std::int32_t>& cu) {
          const Tensor rows = t.sliced(0, cu[i], cu[i + 1]);
          return rows.reshaped({1, rows.shape()[0], rows.shape()[1], rows.shape()[2]});
        };
        AttentionOptions alone;
        alone.causal = causal;
        alone.return_lse = true;
        alone.backend = "reference";
        const AttentionResult expected = attention_forward(part(q, cu_q), part(k, cu_k), part(v, cu_k), {}, alone);
        const Tensor actual = part(packed.output, cu_q);
        if (actual.elements() == 0) continue;
        // Whatever kernel it was: bfloat16 ones may round their weights.
        const bool wide = dtype == DType::f32;
        expect_rows_near(actual, expected.output, wide ? 1e-5 : 1.2e-2, fmt::format("sequence {}", i));
        const Tensor lse = packed.lse.sliced(1, cu_q[i], cu_q[i + 1]).to_float32();
        expect_lse_near(lse, expected.lse.reshaped({4, lse.shape()[1]}), fmt::format("sequence {}", i),
                        wide ? 2e-5 : 2e-4);
      }
    }
  }
  const Tensor q = random_tensor({71, 4, 40}, DType::f32, 1);
  for (const std::vector<std::int32_t>& bad :
       {std::vector<std::int32_t>{}, {0, 5}, {1, 71}, {0, 60, 50, 71}, {0, 72}}) {
    EXPECT_THROW(attention_forward_varlen(q, q, q, bad, bad), InvalidArgument);
  }
}

TEST(Attention, MergedHalvesEqualTheWhole) {
  const Tensor q = random_tensor({2, 17, 3, 24}, DType::f32, 1, 3.0);
  const Tensor k = random_tensor({2, 90, 3, 24}, DType::f32, 2, 3.0);
  const Tensor v = random_tensor({2, 90, 3, 24}, DType::f32, 3);
  AttentionOptions options;
  options.return_lse = true;
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    return attention_forward(q, k.sliced(1, begin, end), v.sliced(1, begin, end), {}, options);
  };
  const AttentionResult whole = part(0, 90);
  const AttentionResult a = part(0, 10);
  const AttentionResult b = part(10, 50);
  const AttentionResult c = part(50, 90);
  const AttentionResult nothing = part(0, 0);
  for (const AttentionResult& merged :
       {merge_attention_states(merge_attention_states(a, b), c),
        merge_attention_states(a, merge_attention_states(b, c)),
        merge_attention_states(merge_attention_states(nothing, merge_attention_states(c, a)), b)}) {
    expect_rows_near(merged.output, whole.output, 2e-6, "merged");
    expect_lse_near(merged.lse, whole.lse, "merged");
  }
  const AttentionResult still_nothing = merge_attention_states(nothing, nothing);
  EXPECT_EQ(still_nothing.output.as<float>()[0], 0.0F);
  EXPECT_EQ(still_nothing.lse.as<float>()[0], kNothing);
}

TEST(Attention, MergeIsSafeAtLargeLse) {
  const auto state = [](float value, float lse) {
    Tensor out = Tensor::empty({1, 1, 1, 1}, DType::f32);
    Tensor log_sum = Tensor::empty({1, 1, 1}, DType::f32);
    *out.as<float>() = value;
    *log_sum.as<float>() = lse;
    return AttentionResult{out, log_sum};
  };
  for (const float lse : {1000.0F, -1000.0F}) {
    const AttentionResult even = merge_attention_states(state(1, lse), state(3, lse));
    EXPECT_FLOAT_EQ(*even.output.as<float>(), 2.0F);
    EXPECT_FLOAT_EQ(*even.lse.as<float>(), lse + std::log(2.0F));
  }
  EXPECT_FLOAT_EQ(*merge_attention_states(state(1, 1000), state(3, -1000)).output.as<float>(), 1.0F);
  EXPECT_THROW(merge_attention_states(state(1, 0), {}), InvalidArgument);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(*merge_attention_states(state(nan, kNothing), state(7, kNothing)).output.as<float>(), 0.0F);
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const Tensor q = random_tensor({1, 4, 2, 8}, DType::f32, 1);
  const auto refused = [&](const Tensor& key, const Tensor& value, const Tensor& mask, const std::string& part) {
    try {
      attention_forward(q, key, value, mask);
      ADD_FAILURE() << "took it: " << part;
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  const auto rows = [](std::initializer_list<std::int64_t> shape, DType dtype = DType::f32) {
    return random_tensor(Shape(shape), dtype, 2);
  };
  refused(rows({1, 4, 2, 9}), q, {}, "[1, 4, 2, 9]");
  refused(rows({1, 5, 2, 8}), q, {}, "do not fit");
  refused(rows({2, 4, 2, 8}), rows({2, 4, 2, 8}), {}, "do not fit");
  refused(rows({1, 4, 3, 8}), rows({1, 4, 3, 8}), {}, "multiple");
  refused(rows({4, 2, 8}), q, {}, "axes");
  refused(rows({1, 4, 2, 8}, DType::bf16), q, {}, "alike");
  refused(q, q, rows({4, 4}), "allowed is [B, N, Sq, Sk]");
  refused(q, q, rows({1, 2, 4, 5}), "[1, 2, 4, 4]");
  refused(q, q, Tensor::zeros({1, 1, 4, 4}, DType::s32), "the mask is int32");
  AttentionOptions options;
  options.scale = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(attention_forward(q, q, q, {}, options), InvalidArgument);
}

TEST(Attention, NothingToTuneWhereNothingIsToBeDone) {
  const Tensor none = Tensor::empty({1, 0, 2, 64}, DType::f32);
  const Tensor k = random_tensor({1, 30, 2, 64}, DType::f32, 1);
  AttentionOptions options;
  options.tune = TuneMode::on;
  EXPECT_EQ(attention_forward(none, k, k, {}, options).output.elements(), 0);
  EXPECT_EQ(attention_forward(k, none, none, {}, options).output.as<float>()[0], 0.0F);
}

TEST(Attention, AForcedBackendMustBeAbleTo) {
  const Tensor q = random_tensor({1, 4, 2, 8}, DType::f32, 1);
  AttentionOptions options;
  options.backend = "nonsense";
  EXPECT_THROW(attention_forward(q, q, q, {}, options), InvalidArgument);
  options.backend = "onednn-bf16";
  EXPECT_THROW(attention_forward(q, q, q, {}, options), Unsupported);
}

/// The graph's operator, with a bias, through whatever the registry selects.
TEST(AttentionNode, AgreesWithTheOperatorsReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::vector<Operand> operands{{random_tensor({2, 19, 6, 40}, dtype, 1)},
                                        {random_tensor({2, 300, 3, 40}, dtype, 2)},
                                        {random_tensor({2, 300, 3, 24}, dtype, 3)}};
    std::vector<Operand> with_bias = operands;
    with_bias.push_back({random_tensor({1, 6, 19, 300}, DType::f32, 4)});
    const Tolerance tolerance = dtype == DType::f32 ? Tolerance{5e-6, 5e-6} : Tolerance{5e-3, 1.2e-2};
    for (const bool causal : {false, true}) {
      const AttentionOp op(0.2, causal);
      expect_kernel_matches_reference(op, operands, "registry", 2, tolerance);
      expect_kernel_matches_reference(op, with_bias, "registry", 2, tolerance);
    }
  }
}

}  // namespace
}  // namespace rondo::test
