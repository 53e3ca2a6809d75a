// Kernels that move elements: exact, in every dtype.
#include "ops/layout.h"
#include "ops/lookup.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr Tolerance kExact{0, 0};

Tensor ids(const Shape& shape, const std::vector<std::int32_t>& values) {
  Tensor tensor = Tensor::empty(shape, DType::s32);
  std::copy(values.begin(), values.end(), tensor.as<std::int32_t>());
  return tensor;
}

class LayoutKernel : public ::testing::TestWithParam<DType> {
 protected:
  Tensor random(const Shape& shape, std::uint32_t seed) const { return random_tensor(shape, GetParam(), seed); }
};

TEST_P(LayoutKernel, ConcatAlongEveryAxis) {
  for (std::size_t axis = 0; axis < 3; ++axis) {
    Shape second{2, 5, 7};
    second[axis] = 3;
    const Tensor wide = random({2, 9, 7}, 3);
    expect_kernel_matches_reference(ConcatOp(axis), {{random({2, 5, 7}, 1)}, {random(second, 2)}}, "copy", 2, kExact);
    expect_kernel_matches_reference(ConcatOp(axis), {{wide.sliced(1, 2, 7)}, {random({2, 5, 7}, 4)}}, "copy", 1,
                                    kExact);
  }
}

TEST_P(LayoutKernel, ReshapeOfStridedRows) {
  const Tensor gaps = random({2, 9, 6}, 5).sliced(1, 1, 4);
  expect_kernel_matches_reference(ReshapeOp({6, 6}), {{gaps}}, "copy", 1, kExact);
  expect_kernel_matches_reference(ReshapeOp({3, 2, 2, 3}), {{gaps}}, "copy", 1, kExact);
}

TEST_P(LayoutKernel, SelectRow) {
  expect_kernel_matches_reference(SelectRowOp(), {{random({3, 4, 17}, 6)}, {ids({3}, {3, 0, 2})}}, "copy", 1, kExact);
}

TEST_P(LayoutKernel, UpsampleNearest) {
  expect_kernel_matches_reference(UpsampleNearestOp(), {{random({2, 3, 5, 9}, 7)}}, "copy", 2, kExact);
}

TEST_P(LayoutKernel, Embedding) {
  const Tensor table = random({11, 24}, 8);
  for (const DType to : {DType::f32, DType::bf16}) {
    expect_kernel_matches_reference(EmbeddingOp(to), {{ids({2, 3}, {0, 10, 3, 3, 1, 99})}, {table}}, "copy", 1,
                                    to == GetParam() ? kExact : tolerance_for(to, 1e-6));
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, LayoutKernel, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(LookupKernel, RelativePositionBias) {
  for (const std::int64_t length : {1, 17, 129, 300}) {
    expect_kernel_matches_reference(RelativePositionBiasOp(length, 128), {{random_tensor({32, 3}, DType::f32, 9)}},
                                    "lookup", 2, kExact);
  }
}

TEST(LookupKernel, TimestepSinusoid) {
  Tensor t = Tensor::empty({3}, DType::f32);
  t.as<float>()[0] = 0;
  t.as<float>()[1] = 999.5F;
  t.as<float>()[2] = 31.25F;
  expect_kernel_matches_reference(TimestepSinusoidOp(256, DType::f32), {{t}}, "reference", 1, {1e-7, 1e-7});
}

}  // namespace
}  // namespace rondo::test
