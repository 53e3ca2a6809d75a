// Kernels of parallel graphs but for the messages themselves.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/merge_attention_op.h"
#include "ops/exchange.h"
#include "ops/group_moments.h"
#include "ops/wire_rows.h"
#include "rondo/error.h"
#include "support/devices.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr Tolerance kExact{0, 0};

class ExchangeKernel : public ::testing::TestWithParam<DType> {
 protected:
  Tensor random(const Shape& shape, std::uint32_t seed) const { return random_tensor(shape, GetParam(), seed); }
};

/// Cover [2, 5, 7] unevenly, one of them without tokens and one without heads.
const std::vector<HeadBlock> kBlocks{{0, {0, 5}, {0, 3}}, {1, {0, 2}, {0, 7}}, {0, {3, 3}, {0, 7}},
                                     {0, {0, 5}, {3, 7}}, {1, {2, 5}, {7, 7}}, {1, {2, 5}, {0, 7}}};

TEST_P(ExchangeKernel, PackHeads) {
  expect_kernel_matches_reference(PackHeadsOp(kBlocks), {{random({2, 5, 7, 16}, 1)}}, "rows", 2, kExact);
  // Keys and values beside each other, of different widths, out of a joined product.
  const Tensor joined = random({2, 5, 7, 20}, 2);
  expect_kernel_matches_reference(PackHeadsOp(kBlocks), {{joined.sliced(3, 0, 12)}, {joined.sliced(3, 12, 20)}}, "rows",
                                  1, kExact);
  // Three heads in a row are one of the operand's, wherever a block cuts them.
  const std::vector<HeadBlock> grouped{{0, {0, 4}, {0, 5}}, {1, {1, 3}, {2, 3}}, {1, {0, 4}, {5, 9}}};
  expect_kernel_matches_reference(PackHeadsOp(grouped, 3), {{random({2, 4, 3, 8}, 3)}}, "rows", 2, kExact);
}

TEST_P(ExchangeKernel, UnpackHeads) {
  expect_kernel_matches_reference(UnpackHeadsOp(kBlocks, {2, 5, 7, 16}), {{random({2 * 5 * 7 * 16}, 4)}}, "rows", 2,
                                  kExact);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ExchangeKernel, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(MergeKernel, MatchesReference) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  for (const std::int64_t head_dim : {1, 17, 64, 128}) {
    Tensor wide = random_tensor({2, 5, 3, head_dim + 3}, DType::f32, 8);
    Tensor b = random_tensor({2, 5, 3, head_dim}, DType::f32, 9);
    Tensor a_lse = random_tensor({2, 3, 5}, DType::f32, 5, 40);
    Tensor b_lse = random_tensor({2, 3, 5}, DType::f32, 6, 40);
    // Of batch 0 and head 0: token 0 saw nothing on one side, token 1 on neither; both have 0 there.
    a_lse.as<float>()[0] = a_lse.as<float>()[1] = b_lse.as<float>()[1] = kNothing;
    a_lse.as<float>()[2] = 3000;
    b_lse.as<float>()[3] = -3000;
    for (const std::int64_t token : {0, 1}) std::fill_n(wide.as<float>() + token * 3 * (head_dim + 3), head_dim, 0.0F);
    std::fill_n(b.as<float>() + 3 * head_dim, head_dim, 0.0F);
    const Tensor gaps = wide.sliced(3, 0, head_dim);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const Tensor& a : {gaps, gaps.dense_copy()}) {
        expect_kernel_matches_reference(MergeAttentionOp(dtype), {{a}, {a_lse}, {b}, {b_lse}}, "rows", 2,
                                        tolerance_for(dtype, 2e-5));
      }
    }
  }
}

/// What x's rows are on their way.
Tensor on_wire(const Tensor& x, const std::vector<std::int64_t>& parts) {
  const Tensor wide = x.to_float32();
  const std::int64_t width = x.shape().back();
  const std::int64_t bytes = wire_row_bytes(parts);
  Shape shape = x.shape();
  shape[shape.rank() - 1] = bytes;
  Tensor wire = Tensor::empty(shape, DType::s8);
  for (std::int64_t row = 0; row < shape.rows(); ++row)
    row_to_wire(parts, wide.as<float>() + row * width, wire.as<std::int8_t>() + row * bytes);
  return wire;
}

/// Every value comes back within half a step of its part's scale, and a little for the ways in which scales are
/// rounded.
void expect_half_steps(const Tensor& x, const Tensor& wire, const std::vector<std::int64_t>& parts) {
  const Tensor wide = x.to_float32();
  std::vector<float> back(static_cast<std::size_t>(x.shape().back()));
  for (std::int64_t row = 0; row < x.shape().rows(); ++row) {
    row_from_wire(parts, wire.as<std::int8_t>() + row * wire_row_bytes(parts), back.data());
    const float* values = wide.as<float>() + row * x.shape().back();
    std::size_t begin = 0;
    for (const std::int64_t part : parts) {
      const std::size_t end = begin + static_cast<std::size_t>(part);
      float most = 0;
      for (std::size_t i = begin; i < end; ++i) most = std::max(most, std::fabs(values[i]));
      for (; begin < end; ++begin)
        EXPECT_NEAR(back[begin], values[begin], 0.501 * most / 127) << "row " << row << " element " << begin;
    }
  }
}

TEST(WireKernel, ThereAndBack) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const std::vector<std::int64_t>& parts :
         {std::vector<std::int64_t>{64}, std::vector<std::int64_t>{64, 72}, std::vector<std::int64_t>{1, 17, 3}}) {
      std::int64_t width = 0;
      for (const std::int64_t part : parts) width += part;
      Tensor gaps = random_tensor({2, 5, 3, width + 2}, dtype, 10);
      std::memset(gaps.data(), 0, 2 * static_cast<std::size_t>(width));  // a row of zeros, or half of one
      const Tensor x = gaps.sliced(3, 0, width);
      try {
        expect_half_steps(x, run_kernel(RowsToWireOp(parts), {{x}}, "rows", 2)[0], parts);
      } catch (const Unsupported& refusal) {
        expect_known_refusal("rows_to_wire", refusal.what());
      }
      expect_kernel_matches_reference(RowsFromWireOp(parts, dtype), {{on_wire(x, parts)}}, "rows", 2,
                                      tolerance_for(dtype, 1e-6));
    }
  }
}

TEST(GroupMomentsKernel, OfEveryPart) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t rows : {0, 1, 5}) {
      const Tensor x = random_tensor({2, rows, 7, 12}, dtype, 11);
      expect_kernel_matches_reference(GroupMomentsOp(4), {{x}}, "simd", 2, tolerance_for(DType::f32, 1e-5));
    }
  }
}

TEST(GroupMomentsKernel, NormByThem) {
  const std::vector<std::int64_t> counts{35, 0, 70};
  const Tensor weight = random_tensor({12}, DType::f32, 12);
  const Tensor bias = random_tensor({12}, DType::f32, 13);
  Tensor moments = random_tensor({3, 2, 4, 2}, DType::f32, 14);
  for (std::int64_t i = 1; i < moments.elements(); i += 2) moments.as<float>()[i] = std::fabs(moments.as<float>()[i]);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_kernel_matches_reference(
        GroupNormByMomentsOp(counts, 1e-6),
        {{random_tensor({2, 5, 7, 12}, dtype, 15)}, {moments}, {weight, true}, {bias, true}}, "simd", 2,
        tolerance_for(dtype, 2e-5));
  }
}

}  // namespace
}  // namespace rondo::test
