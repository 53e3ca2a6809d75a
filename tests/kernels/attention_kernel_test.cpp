// Attention against float64 at odd lengths, head dims, with masks, grouped heads and empty rows.
#include <limits>

#include "attention/attention_op.h"
#include "core/cpu_level.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

struct Problem {
  std::int64_t batch = 1;
  std::int64_t queries = 1;
  std::int64_t keys = 1;
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t head_dim = 64;
  std::int64_t value_dim = 64;
  bool causal = false;
};

class AttentionKernel : public ::testing::TestWithParam<DType> {
 protected:
  std::vector<Operand> operands(const Problem& p, std::uint32_t seed, double scale = 1.0) const {
    return {{random_tensor({p.batch, p.queries, p.heads, p.head_dim}, GetParam(), seed, scale)},
            {random_tensor({p.batch, p.keys, p.key_heads, p.head_dim}, GetParam(), seed + 1, scale)},
            {random_tensor({p.batch, p.keys, p.key_heads, p.value_dim}, GetParam(), seed + 2)}};
  }
  void check(const Problem& p, const std::vector<Operand>& operands, double error = 5e-6) const {
    const AttentionOp op(1.0 / std::sqrt(static_cast<double>(p.head_dim)), p.causal);
    for (const int threads : {1, 3}) {
      expect_kernel_matches_reference(op, operands, "flash", threads, tolerance_for(GetParam(), error));
      // Its weights are rounded to bfloat16 before the second product: half a unit in the last place of each.
      if (GetParam() == DType::bf16 && has_native_bf16() && p.keys >= 256) {
        expect_kernel_matches_reference(op, operands, "onednn-bf16", threads, {error + 4e-3, 8e-3});
      }
    }
  }
};

TEST_P(AttentionKernel, OddLengths) {
  for (const std::int64_t queries : {1, 17, 129}) {
    for (const std::int64_t keys : {1, 17, 129, 300}) {
      const Problem p{1, queries, keys, 2, 2, 64, 64, false};
      check(p, operands(p, 1));
    }
  }
}

TEST_P(AttentionKernel, HeadDims) {
  for (const std::int64_t head_dim : {1, 8, 24, 64, 72, 96, 128, 256, 512}) {
    for (const std::int64_t keys : {33, 257}) {
      const Problem p{1, 19, keys, 1, 1, head_dim, head_dim, false};
      check(p, operands(p, 2));
    }
  }
  const Problem own{2, 9, 31, 2, 2, 40, 72, false};
  check(own, operands(own, 3));
}

TEST_P(AttentionKernel, CausalAlignedAtTheEnd) {
  for (const auto& [queries, keys] :
       {std::pair(17, 17), {5, 300}, {300, 300}, {20, 7}}) {  // the last: rows that see nothing
    const Problem p{1, queries, keys, 2, 2, 24, 24, true};
    check(p, operands(p, 4));
  }
}

TEST_P(AttentionKernel, GroupedHeads) {
  const Problem p{2, 21, 300, 6, 2, 32, 32, false};
  check(p, operands(p, 5));
}

TEST_P(AttentionKernel, BiasAndMaskedRows) {
  const Problem p{2, 19, 300, 3, 3, 40, 40, false};
  for (const Shape& shape : {Shape{1, 3, 19, 300}, Shape{2, 1, 19, 300}, Shape{1, 1, 19, 300}}) {
    std::vector<Operand> all = operands(p, 6);
    Tensor bias = random_tensor(shape, DType::f32, 7, 3.0);
    const float hidden = -std::numeric_limits<float>::infinity();
    for (std::int64_t k = 0; k < 300; ++k) bias.as<float>()[2 * 300 + k] = hidden;  // row 2 sees nothing
    for (std::int64_t k = 0; k < 256; ++k) bias.as<float>()[5 * 300 + k] = hidden;  // row 5 only the second block
    all.push_back({bias});
    check(p, all);
  }
}

TEST_P(AttentionKernel, LargeScores) {
  const Problem p{1, 17, 129, 1, 1, 64, 64, false};
  check(p, operands(p, 8, 6.0), 2e-4);  // scores of some hundreds
}

TEST_P(AttentionKernel, StridedOperands) {
  const Problem p{2, 17, 17, 2, 2, 24, 24, false};
  const Tensor packed = random_tensor({2, 17, 6, 24}, GetParam(), 9);  // query, key, value side by side
  check(p, {{packed.sliced(2, 0, 2)}, {packed.sliced(2, 2, 4)}, {packed.sliced(2, 4, 6)}});
}

INSTANTIATE_TEST_SUITE_P(Dtypes, AttentionKernel, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

}  // namespace
}  // namespace rondo::test
