// Norms, modulation, activations, sums, RoPE and casts against their float64 references.
#include "ops/elementwise.h"
#include "ops/fused_norms.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr double kFloatError = 2e-6;

/// Widths around every vector length, and the widths of models.
const std::vector<std::int64_t> kWidths{1, 2, 7, 17, 64, 72, 96, 128, 129, 256, 1000};

class RowKernel : public ::testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  Tensor random(const Shape& shape, std::uint32_t seed) const { return random_tensor(shape, dtype(), seed); }
  static Tensor random_float(const Shape& shape, std::uint32_t seed) { return random_tensor(shape, DType::f32, seed); }
  void check(const Operator& op, const std::vector<Operand>& operands, double error = kFloatError) const {
    for (const int threads : {1, 3})
      expect_kernel_matches_reference(op, operands, "simd", threads, tolerance_for(dtype(), error));
  }
};

TEST_P(RowKernel, RmsNorm) {
  for (const std::int64_t width : kWidths) {
    const Tensor x = random({3, 17, width}, 1);
    check(RmsNormOp(1e-6), {{x}, {random_float({width}, 2)}}, 1e-5);
    check(RmsNormOp(1e-6), {{x}}, 1e-5);
  }
}

TEST_P(RowKernel, RmsNormOfZerosIsZero) { check(RmsNormOp(1e-6), {{Tensor::zeros({2, 40}, dtype())}}); }

TEST_P(RowKernel, LayerNorm) {
  for (const std::int64_t width : kWidths) {
    const Tensor x = random({2, 5, width}, 3);
    // A row of one element is its own mean: the result is exactly 0 and nothing amplifies rounding.
    check(LayerNormOp(1e-5), {{x}}, 1e-5);
    check(LayerNormOp(1e-5), {{x}, {random_float({width}, 4)}, {random_float({width}, 5)}}, 1e-5);
  }
}

TEST_P(RowKernel, LayerNormFarFromZero) {
  Tensor x = random_tensor({4, 192}, DType::f32, 6);
  for (std::int64_t i = 0; i < x.elements(); ++i) x.as<float>()[i] += 100.0F;
  check(LayerNormOp(1e-6), {{x.to(dtype())}}, 1e-4);
}

TEST_P(RowKernel, LayerNormOfEqualElementsIsZero) {
  for (const std::int64_t width : {31, 72, 3072}) {
    Tensor x = Tensor::empty({2, width}, DType::f32);
    std::fill_n(x.as<float>(), x.elements(), 100.7F);
    check(LayerNormOp(1e-6), {{x.to(dtype())}});
  }
}

TEST_P(RowKernel, GroupNorm) {
  for (const auto& [shape, groups] : {std::pair(Shape{1, 5, 7, 32}, 8),
                                      {Shape{2, 17, 1, 96}, 8},
                                      {Shape{1, 1, 1, 8}, 4},
                                      {Shape{1, 129, 3, 72}, 9}}) {
    check(GroupNormOp(groups, 1e-6),
          {{random(shape, 7)}, {random_float({shape.back()}, 8)}, {random_float({shape.back()}, 9)}}, 2e-5);
  }
}

TEST_P(RowKernel, ModulateAndGatedAdd) {
  for (const std::int64_t width : kWidths) {
    const Tensor x = random({2, 17, width}, 10);
    // Scale, shift and gate are slices of one wide row, as in a model.
    const Tensor parameters = random({2, 3 * width}, 11);
    const Tensor scale = parameters.sliced(1, 0, width);
    const Tensor shift = parameters.sliced(1, width, 2 * width);
    check(ModulateOp(), {{x}, {scale}, {shift}});
    check(GatedAddOp(), {{x}, {scale}, {random({2, 17, width}, 12)}});
    check(LayerNormScaleShiftOp(1e-5), {{x}, {scale}, {shift}}, 2e-5);
    check(LayerNormScaleShiftOp(1e-5), {{x}, {scale}, {shift}, {random_float({width}, 4)}, {random_float({width}, 5)}},
          2e-5);
  }
}

TEST_P(RowKernel, ModulationsOfEveryShapeAndDtype) {
  const Tensor x = random({2, 17, 40}, 10);
  for (const DType vector : {DType::f32, DType::bf16, DType::f16}) {
    for (const Shape& shape : {Shape{2, 40}, Shape{2, 1, 40}, Shape{2, 17, 40}}) {
      const Tensor scale = random_tensor(shape, vector, 11);
      const Tensor shift = random_tensor(Shape{2, 40}, vector, 12);
      check(ModulateOp(), {{x}, {scale}, {shift}});
      check(LayerNormScaleShiftOp(1e-5), {{x}, {scale}, {shift}}, 2e-5);
      check(GatedAddOp(), {{x}, {scale}, {random({2, 17, 40}, 13)}});
    }
  }
}

TEST_P(RowKernel, AddRmsNorm) {
  for (const std::int64_t width : kWidths) {
    const Tensor x = random({2, 5, width}, 3);
    const Tensor residual = random({2, 9, width}, 4).sliced(1, 2, 7);
    check(AddRmsNormOp(1e-6), {{x}, {residual}}, 1e-5);
    check(AddRmsNormOp(1e-6), {{x}, {residual}, {random_float({width}, 5)}}, 1e-5);
  }
}

TEST_P(RowKernel, Swiglu) {
  for (const std::int64_t width : kWidths) {
    Tensor x = random_tensor({5, 2 * width}, DType::f32, 6, 4.0);
    x.as<float>()[width] = -1e4F;
    check(SwigluOp(), {{x.to(dtype())}}, 4e-6);
  }
}

TEST_P(RowKernel, StridedRows) {
  const Tensor wide = random({2, 40, 3, 24}, 13);
  const Tensor x = wide.sliced(1, 5, 22);  // rows of two batches with a gap between them
  check(RmsNormOp(1e-6), {{x}}, 1e-5);
  check(ActivationOp(ActivationKind::silu), {{x}}, 1e-5);
}

TEST_P(RowKernel, Activations) {
  Tensor x = random_tensor({7, 129}, DType::f32, 14, 4.0);
  const std::vector<float> extremes{0.0F, -0.0F, 1e-30F, -1e-30F, 20.0F, -20.0F, 88.0F, -88.0F, 1e4F, -1e4F};
  std::copy(extremes.begin(), extremes.end(), x.as<float>());
  for (const ActivationKind kind : {ActivationKind::gelu_tanh, ActivationKind::gelu_erf, ActivationKind::quick_gelu,
                                    ActivationKind::silu, ActivationKind::mish, ActivationKind::relu}) {
    check(ActivationOp(kind), {{x.to(dtype())}}, 4e-6);
  }
}

TEST_P(RowKernel, AddAndMultiply) {
  for (const std::int64_t width : kWidths) {
    const Tensor a = random({2, 6, width}, 15);
    for (const BinaryKind kind : {BinaryKind::add, BinaryKind::multiply}) {
      check(BinaryOp(kind), {{a}, {random({2, 6, width}, 16)}});
      check(BinaryOp(kind), {{a}, {random({6, width}, 17)}});
      check(BinaryOp(kind), {{a}, {random({width}, 18)}});
    }
  }
}

TEST_P(RowKernel, Cast) {
  for (const DType to : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor x = random({3, 129}, 19);
    for (const int threads : {1, 2}) {
      expect_kernel_matches_reference(CastOp(to), {{x}}, "simd", threads, tolerance_for(to, 1e-7));
    }
  }
}

TEST_P(RowKernel, Rope) {
  for (const RotaryMode mode : {RotaryMode::half, RotaryMode::interleaved}) {
    for (const std::int64_t head_dim : {2, 6, 8, 16, 24, 64, 72, 96, 128, 256}) {
      const Tensor x = random({2, 5, 3, head_dim}, 20);
      for (const std::int64_t columns : {head_dim / 2, head_dim}) {
        const Tensor cos = random_float({5, columns}, 21);
        const Tensor sin = random_float({5, columns}, 22);
        check(RopeOp(mode), {{x}, {cos}, {sin}}, 1e-5);
        check(RmsNormRopeOp(1e-6, mode), {{x}, {cos}, {sin}}, 2e-5);
        check(RmsNormRopeOp(1e-6, mode), {{x}, {cos}, {sin}, {random_float({head_dim}, 23)}}, 2e-5);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, RowKernel, ::testing::Values(DType::f32, DType::bf16, DType::f16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

/// Rounding a NaN's bits as a number's could carry into infinity.
TEST(RowKernelNan, StaysNanInNarrowDtypes) {
  constexpr std::int64_t kWidth = 40;
  Tensor x = random_tensor({2, kWidth}, DType::f32, 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::array<std::pair<std::int64_t, float>, 5> special{
      {{3, nan}, {17, -nan}, {39, infinity}, {kWidth, -infinity}, {2 * kWidth - 1, std::bit_cast<float>(0x7fffffffU)}}};
  for (const auto& [at, value] : special) x.as<float>()[at] = value;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const CastOp op(dtype);
    expect_kernel_matches_reference(op, {{x}}, "simd", 1, tolerance_for(dtype, 0));
    if (!test_device().is_cpu()) continue;
    const Tensor narrow = run_kernel(op, {{x}}, "simd", 1)[0].to_float32();
    for (const auto& [at, value] : special) {
      const float given = narrow.as<float>()[at];
      EXPECT_TRUE(std::isnan(value) ? std::isnan(given) : given == value)
          << dtype_name(dtype) << " at " << at << ": " << given;
    }
  }
}

}  // namespace
}  // namespace rondo::test
