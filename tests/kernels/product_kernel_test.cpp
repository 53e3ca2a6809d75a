// Linear layers and convolutions by oneDNN against their float64 references.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu_level.h"
#include "ops/conv2d.h"
#include "ops/linear.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

class ProductKernel : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (GetParam() == DType::bf16 && !has_native_bf16()) GTEST_SKIP() << "no bfloat16 products at this level";
  }
  DType dtype() const { return GetParam(); }
  Tensor random(const Shape& shape, std::uint32_t seed, double scale = 1.0) const {
    return random_tensor(shape, dtype(), seed, scale);
  }
  void check(const Operator& op, const std::vector<Operand>& operands) const {
    for (const int threads : {1, 2})
      expect_kernel_matches_reference(op, operands, "onednn", threads, tolerance_for(dtype(), 2e-5));
  }
};

TEST_P(ProductKernel, LinearAtOddShapes) {
  for (const std::int64_t rows : {1, 2, 17, 129}) {
    for (const auto& [in, out] : {std::pair(1, 1), {7, 5}, {64, 192}, {72, 129}, {300, 96}}) {
      const Tensor x = random({1, rows, in}, 1);
      const Operand weight{random({out, in}, 2, 1.0 / std::sqrt(in)), true};
      const Operand bias{random_tensor({out}, DType::f32, 3), true};
      check(LinearOp(), {{x}, weight, bias});
      check(LinearOp(), {{x}, weight});
    }
  }
}

TEST_P(ProductKernel, LinearOnSlices) {
  const Operand weight{random({40, 24}, 4, 0.2), true};
  const Tensor wide = random({3, 30, 48}, 5);
  check(LinearOp(), {{wide.sliced(2, 24, 48)}, weight});                  // rows with gaps
  check(LinearOp(), {{wide.sliced(2, 0, 24).sliced(1, 3, 20)}, weight});  // batches with gaps
  check(LinearOp(), {{random({2, 24}, 6)}, weight});                      // rank 2
}

TEST_P(ProductKernel, LinearWithActivation) {
  const Operand weight{random({40, 24}, 2, 0.25), true};
  const Operand bias{random_tensor({40}, DType::f32, 3), true};
  for (const ActivationKind kind : {ActivationKind::gelu_erf, ActivationKind::gelu_tanh, ActivationKind::quick_gelu,
                                    ActivationKind::silu, ActivationKind::mish, ActivationKind::relu})
    check(LinearOp(kind), {{random({2, 17, 24}, 1)}, weight, bias});
}

/// x, weight, bias, gate (cut out of a wider one), residual
std::vector<Operand> gated_operands(const Tensor& x, std::int64_t out, DType dtype) {
  const std::int64_t batch = x.shape()[0];
  const std::int64_t in = x.shape()[2];
  return {{x},
          {random_tensor({out, in}, dtype, 22, 1.0 / std::sqrt(in)), true},
          {random_tensor({out}, DType::f32, 23), true},
          {random_tensor({batch, 3 * out}, dtype, 24).sliced(1, out, 2 * out)},
          {random_tensor({batch, x.shape()[1] + 4, out}, dtype, 25).sliced(1, 1, 1 + x.shape()[1])}};
}

TEST_P(ProductKernel, GatedLinear) {
  // The product, up to 8, is rounded (by 1 / 64) before it is multiplied by up to 4.
  for (const auto& [batch, rows, in, out] :
       {std::tuple(1, 1, 24, 40), {2, 17, 64, 72}, {3, 5, 7, 1}, {2, 513, 32, 600}}) {
    const auto operands = gated_operands(random({batch, rows, in}, 1), out, dtype());
    Tolerance tolerance = tolerance_for(dtype(), 2e-5);
    if (dtype() == DType::bf16) tolerance.absolute += 4.0 / 64;
    for (const int threads : {1, 2}) {
      for (const auto& activation : {std::optional<ActivationKind>(), std::optional(ActivationKind::silu)}) {
        const LinearOp op(activation, std::nullopt, true);
        expect_kernel_matches_reference(op, operands, "onednn", threads, tolerance);
      }
    }
  }
}

TEST_P(ProductKernel, LinearWithComputedWeight) {
  check(LinearOp(), {{random({2, 5, 16}, 7)}, {random({9, 16}, 8, 0.25)}, {random_tensor({9}, DType::f32, 9)}});
}

TEST_P(ProductKernel, TiledLinear) {
  if (dtype() != DType::bf16 || cpu_level() < CpuLevel::avx512_amx) GTEST_SKIP() << "needs bfloat16 and AMX";
  for (const auto& [rows, in, out] : {std::tuple(256, 256, 256), {300, 320, 512}, {513, 4160, 256}}) {
    const Tensor x = random({1, rows, in}, 21);
    const Tensor batches = random({2, rows, in}, 24).sliced(1, 3, rows - 5);  // with gaps between them
    const Operand weight{random({out, in}, 22, 1.0 / std::sqrt(in)), true};
    const Operand bias{random_tensor({out}, DType::f32, 23), true};
    const auto check_tiled = [&](const LinearOp& op, const std::vector<Operand>& operands) {
      EXPECT_EQ(chosen_kernel(op, operands), "onednn-tiled");
      for (const int threads : {1, 2})
        expect_kernel_matches_reference(op, operands, "onednn-tiled", threads, tolerance_for(dtype(), 2e-5));
    };
    for (const auto& operands : {std::vector<Operand>{{x}, weight, bias}, {{x}, weight}, {{batches}, weight, bias}}) {
      check_tiled(LinearOp(), operands);
      check_tiled(LinearOp(ActivationKind::gelu_tanh), operands);
    }
    check_tiled(LinearOp(std::nullopt, std::nullopt, true), gated_operands(batches, out, dtype()));
  }
}

/// Every way to quantise, at a level's own limit of weights.
std::vector<LinearQuantization> quantizations(std::int64_t inputs) {
  std::vector<LinearQuantization> all(5);
  all[0].weight_limit = cpu_level() < CpuLevel::avx512_vnni ? 63 : 127;
  all[1].format = LinearFormat::w8a16;
  all[2].format = LinearFormat::w4a16;
  all[2].weight_limit = 7;
  all[2].group = 32;
  all[3].format = LinearFormat::fp8;
  all[4].format = LinearFormat::fp8_per_tensor;
  std::vector<LinearQuantization> more = all;
  for (LinearQuantization& q : more) {
    q.rotation = 16;
    q.smooth = random_tensor({inputs}, DType::f32, 9, 0.3);
    for (std::int64_t k = 0; k < inputs; ++k) q.smooth.as<float>()[k] = std::exp(q.smooth.as<float>()[k]);
  }
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// Integers up to 127 / 32 of which each row has the largest: in 8 bits they lose nothing and no rounding is a tie.
Tensor whole_numbers(const Shape& shape, DType dtype, std::uint32_t seed) {
  Tensor tensor = random_tensor(shape, DType::f32, seed, 40);
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    const float whole = std::clamp(std::nearbyint(tensor.as<float>()[i]), -127.0F, 127.0F);
    tensor.as<float>()[i] = (i % (shape.back() / 2) == 0 ? 127.0F : whole) / 32;
  }
  return tensor.to(dtype);
}

TEST_P(ProductKernel, QuantizedLinear) {
  for (const auto& [rows, in, out] :
       {std::tuple(1, 64, 96), {17, 192, 5}, {129, 160, 256}, {300, 3200, 64}, {5, 96, 512}}) {
    const Tensor x = whole_numbers({1, rows, in}, dtype(), 31);
    const Tensor batches =
        whole_numbers({2, rows + 3, 2 * in}, dtype(), 34).sliced(1, 2, 2 + rows).sliced(2, in, 2 * in);
    const Operand weight{random({out, in}, 32, 1.0 / std::sqrt(in)), true};
    const Operand bias{random_tensor({out}, DType::f32, 33), true};
    for (const LinearQuantization& q : quantizations(in)) {
      const std::string kernel = q.is_fp8() ? "fp8" : q.quantizes_input() ? "int8" : "weight-only";
      Tolerance tolerance = tolerance_for(dtype(), 5e-5);
      // What is turned and smoothed may lie between two integers and round either way: that moves a sum by one step of
      // an input (1 / 127 of the largest, in e4m3 up to 1 / 14) times a weight.
      if (q.rotation != 0 && q.quantizes_input()) tolerance.absolute += (q.is_fp8() ? 0.9 : 0.3) / std::sqrt(in);
      // In bfloat16 a weight that is scaled before the product and an input that is turned are rounded once more. The
      // CPU scales the sums where a row has one scale.
      const bool rounds = q.group != 0 || q.rotation != 0 || !test_device().is_cpu();
      if (dtype() == DType::bf16 && !q.quantizes_input() && rounds) tolerance.absolute += 2e-2;
      for (const auto& operands : {std::vector<Operand>{{x}, weight, bias}, {{batches}, weight}}) {
        const LinearOp op(ActivationKind::gelu_tanh, q);
        ASSERT_EQ(chosen_kernel(op, operands), kernel) << q.to_string();
        for (const int threads : {1, 2}) expect_kernel_matches_reference(op, operands, kernel, threads, tolerance);
      }
      if (in > 200) continue;  // the reference takes seconds
      expect_kernel_matches_reference(LinearOp(std::nullopt, q, true), gated_operands(batches, out, dtype()), kernel, 2,
                                      {tolerance.absolute * 4, tolerance.relative});
    }
  }
}

TEST_P(ProductKernel, QuantizedLinearOfWhatIsNotFiniteIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Tensor x = random_tensor({1, 3, 64}, DType::f32, 31);
    x.as<float>()[70] = bad;
    for (const auto& [way, kernel] : {std::pair(0, "int8"), {3, "fp8"}, {4, "fp8"}}) {
      const LinearQuantization q = quantizations(64)[static_cast<std::size_t>(way)];
      const Tensor y =
          run_kernel(LinearOp(std::nullopt, q), {{x.to(dtype())}, {random({32, 64}, 32), true}}, kernel, 1)[0]
              .to_float32();
      for (std::int64_t i = 0; i < y.elements(); ++i) {
        const bool shares_scale = i / 32 == 1 || q.format == LinearFormat::fp8_per_tensor;
        EXPECT_EQ(std::isfinite(y.as<float>()[i]), !shares_scale) << q.to_string() << " element " << i;
      }
    }
  }
}

TEST_P(ProductKernel, Convolution) {
  struct Case {
    Shape input;
    Shape weight;
    std::int64_t stride;
    Conv2dOp::Padding padding;
  };
  for (const Case& c :
       {Case{{1, 5, 7, 4}, {8, 4, 3, 3}, 1, {1, 1, 1, 1}}, Case{{2, 8, 6, 16}, {24, 16, 1, 1}, 1, {}},
        Case{{1, 9, 8, 8}, {8, 8, 3, 3}, 2, {0, 1, 0, 1}}, Case{{1, 1, 1, 3}, {5, 3, 3, 3}, 1, {1, 1, 1, 1}},
        Case{{1, 17, 3, 32}, {3, 32, 3, 3}, 1, {1, 1, 1, 1}}}) {
    const auto inputs = static_cast<double>(c.weight[1] * c.weight[2] * c.weight[3]);
    check(Conv2dOp(c.stride, c.padding), {{random(c.input, 10)},
                                          {random(c.weight, 11, 1.0 / std::sqrt(inputs)), true},
                                          {random_tensor({c.weight[0]}, DType::f32, 12), true}});
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ProductKernel, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(ProductKernelChoice, StridesThatOnednnCannotTakeRunTheReference) {
  const Tensor wide = random_tensor({2, 9, 4, 6}, DType::f32, 13);
  const Tensor gaps = wide.sliced(1, 0, 5).sliced(2, 0, 2);  // uneven even within one batch
  const std::vector<Operand> operands{{gaps}, {random_tensor({3, 6}, DType::f32, 14), true}};
  EXPECT_EQ(chosen_kernel(LinearOp(), operands), "reference");
  expect_kernel_matches_reference(LinearOp(), operands, "reference", 1, {1e-5, 1e-5});
}

}  // namespace
}  // namespace rondo::test
