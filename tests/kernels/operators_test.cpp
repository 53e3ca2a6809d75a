// The public operators: layouts, strides, table shapes and refusals; values against the plain path.
#include "rondo/operators.h"

#include "rondo/error.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

const OperatorOptions kPlain{false, 0};

void expect_near(const Tensor& actual, const Tensor& expected, const std::string& what) {
  ASSERT_EQ(actual.shape(), expected.shape()) << what;
  ASSERT_EQ(actual.dtype(), expected.dtype()) << what;
  EXPECT_TRUE(actual.is_dense()) << what;
  // The plain path rounds to the dtype as well: a result may lie one unit further.
  const double unit = actual.dtype() == DType::f32 ? 2e-5 : actual.dtype() == DType::f16 ? 1e-3 : 8e-3;
  EXPECT_LE(relative_error(actual, expected), unit) << what;
}

class Operators : public ::testing::TestWithParam<DType> {
 protected:
  static Tensor random(const Shape& shape, std::uint32_t seed) { return random_tensor(shape, GetParam(), seed); }
};

TEST_P(Operators, RotaryTakesEveryTableShape) {
  const std::int64_t s = 7;
  const std::int64_t d = 24;
  const Tensor x = random({2, s, 3, d}, 1);
  for (const RotaryMode mode : {RotaryMode::half, RotaryMode::interleaved}) {
    for (const std::int64_t columns : {d, d / 2}) {
      const Tensor cos = random({s, columns}, 2);
      const Tensor sin = random({s, columns}, 3);
      const Tensor expected = rotary_position_embedding(x, cos, sin, mode, false, kPlain);
      const auto turn = [&](const Tensor& input, const Shape& table, bool head_first) {
        return rotary_position_embedding(input, cos.reshaped(table), sin.reshaped(table), mode, head_first);
      };
      expect_near(turn(x, {s, columns}, false), expected, "BSND, [S, D]");
      expect_near(turn(x, {1, s, 1, columns}, false), expected, "BSND, [1, S, 1, D]");
      const Tensor bnsd = x.transposed(1, 2);  // strided, and dense below
      for (const Tensor& input : {bnsd, bnsd.to(GetParam())}) {
        const Tensor wanted = expected.transposed(1, 2).to(GetParam());
        expect_near(turn(input, {s, columns}, true), wanted, "BNSD, [S, D]");
        expect_near(turn(input, {1, 1, s, columns}, true), wanted, "BNSD, [1, 1, S, D]");
        expect_near(turn(input, {1, 1, s, columns}, false), wanted, "BNSD, [1, 1, S, D], head_first not said");
      }
      const Tensor sbnd = x.transposed(0, 1);
      expect_near(turn(sbnd, {s, 1, 1, columns}, false), expected.transposed(0, 1).to(GetParam()), "SBND");
    }
  }
}

TEST_P(Operators, FusedEqualsPlain) {
  const Tensor x = random({2, 5, 40}, 1);
  const Tensor y = random({2, 9, 40}, 2).sliced(1, 1, 6);
  const Tensor across = random({2, 40, 5}, 3).transposed(1, 2);  // the last axis is not dense
  const Tensor weight = random({40}, 4);
  const Tensor bias = random({40}, 5);
  const Tensor scale = random({2, 40}, 6);
  const Tensor shift = random_tensor({2, 1, 40}, DType::f32, 7);
  for (const Tensor& in : {x, y, across}) {
    expect_near(rms_norm(in), rms_norm(in, {}, 1e-6, kPlain), "rms_norm");
    expect_near(rms_norm(in, weight), rms_norm(in, weight, 1e-6, kPlain), "rms_norm, weight");
    expect_near(layer_norm(in), layer_norm(in, {}, {}, 1e-5, kPlain), "layer_norm");
    expect_near(layer_norm(in, weight), layer_norm(in, weight, {}, 1e-5, kPlain), "layer_norm, weight");
    expect_near(layer_norm(in, weight, bias), layer_norm(in, weight, bias, 1e-5, kPlain), "layer_norm, bias");
    expect_near(layernorm_scale_shift(in, scale, shift, {}, bias),
                layernorm_scale_shift(in, scale, shift, {}, bias, 1e-5, kPlain), "layernorm_scale_shift");
    expect_near(residual_gate_add(in, y, scale), residual_gate_add(in, y, scale, kPlain), "residual_gate_add");
    const NormedSum fused = add_rms_norm(in, y, weight);
    const NormedSum plain = add_rms_norm(in, y, weight, 1e-6, kPlain);
    expect_near(fused.normed, plain.normed, "add_rms_norm");
    expect_near(fused.sum, plain.sum, "add_rms_norm, sum");
    expect_near(swiglu(in), swiglu(in, kPlain), "swiglu");
    for (const ActivationKind kind : {ActivationKind::gelu_erf, ActivationKind::gelu_tanh, ActivationKind::quick_gelu,
                                      ActivationKind::silu, ActivationKind::mish, ActivationKind::relu})
      expect_near(activation(in, kind), activation(in, kind, kPlain), "activation");
  }
}

TEST_P(Operators, QueryAndKeyInOnePass) {
  const Tensor query = random({2, 3, 7, 24}, 1);
  const Tensor key = random({2, 1, 7, 24}, 2);
  const Tensor weight = random({24}, 3);
  const Tensor cos = random({7, 24}, 4);
  const Tensor sin = random({7, 24}, 5);
  const QueryKey fused = qk_norm_rope(query, key, weight, {}, cos, sin, RotaryMode::half, true);
  const QueryKey plain = qk_norm_rope(query, key, weight, {}, cos, sin, RotaryMode::half, true, 1e-6, kPlain);
  expect_near(fused.query, plain.query, "query");
  expect_near(fused.key, plain.key, "key");
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Operators, ::testing::Values(DType::f32, DType::bf16, DType::f16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(OperatorsByHand, PlainRotation) {
  Tensor x = Tensor::empty({1, 1, 1, 4}, DType::f32);
  Tensor cos = Tensor::empty({1, 4}, DType::f32);
  Tensor sin = Tensor::empty({1, 4}, DType::f32);
  for (int i = 0; i < 4; ++i) {
    x.as<float>()[i] = static_cast<float>(1 + i);
    cos.as<float>()[i] = static_cast<float>(10 + i);
    sin.as<float>()[i] = static_cast<float>(100 + i);
  }
  const Tensor half = rotary_position_embedding(x, cos, sin, RotaryMode::half);
  const Tensor pairs = rotary_position_embedding(x, cos, sin, RotaryMode::interleaved);
  const float by_half[]{10 - 3 * 100, 2 * 11 - 4 * 101, 3 * 12 + 1 * 102, 4 * 13 + 2 * 103};
  const float by_pairs[]{10 - 2 * 100, 2 * 11 + 1 * 101, 3 * 12 - 4 * 102, 4 * 13 + 3 * 103};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(half.as<float>()[i], by_half[i]) << i;
    EXPECT_EQ(pairs.as<float>()[i], by_pairs[i]) << i;
  }
}

TEST(OperatorsByHand, EmptyInputs) {
  const Tensor none = Tensor::empty({2, 0, 40}, DType::f32);
  const Tensor scale = random_tensor({2, 40}, DType::f32, 1);
  EXPECT_EQ(rms_norm(none).shape(), none.shape());
  EXPECT_EQ(layernorm_scale_shift(none, scale, scale).shape(), none.shape());
  EXPECT_EQ(swiglu(none).shape(), (Shape{2, 0, 20}));
}

TEST(OperatorsByHand, Refusals) {
  const Tensor x = random_tensor({2, 7, 3, 24}, DType::f32, 1);
  const auto table = [](const Shape& shape) { return random_tensor(shape, DType::f32, 2); };
  for (const Shape& bad : {Shape{7, 23}, Shape{6, 24}, Shape{1, 7, 3, 24}, Shape{1, 1, 7, 24}, Shape{7}}) {
    EXPECT_THROW(rotary_position_embedding(x, table(bad), table(bad)), InvalidArgument) << bad.to_string();
  }
  EXPECT_THROW(rotary_position_embedding(x, table({7, 24}), table({7, 12})), InvalidArgument);
  EXPECT_THROW(rotary_position_embedding(x, table({1, 7, 1, 24}), table({1, 7, 1, 24}), RotaryMode::half, true),
               InvalidArgument);
  const Tensor odd = random_tensor({2, 7, 3, 5}, DType::f32, 1);
  EXPECT_THROW(rotary_position_embedding(odd, table({7, 5}), table({7, 5})), InvalidArgument);
  const Tensor y = random_tensor({2, 7, 24}, DType::f32, 1);
  EXPECT_THROW(rms_norm(y, table({23})), InvalidArgument);
  EXPECT_THROW(layernorm_scale_shift(y, table({1, 24}), table({2, 24})), InvalidArgument);
  EXPECT_THROW(residual_gate_add(y, y.to(DType::bf16).sliced(1, 0, 6), table({2, 24})), InvalidArgument);
  EXPECT_THROW(add_rms_norm(y, y.to(DType::bf16)), InvalidArgument);
  EXPECT_THROW(swiglu(random_tensor({2, 7}, DType::f32, 1)), InvalidArgument);
  EXPECT_THROW(rms_norm(Tensor()), InvalidArgument);
  float one = 1;
  const Tensor endless = Tensor::borrow(&one, {1}, DType::f32).restrided({std::int64_t{1} << 62}, {0});
  EXPECT_THROW(activation(endless, ActivationKind::relu), Error);
  EXPECT_THROW(activation(Tensor::zeros({3}, DType::s32), ActivationKind::silu), InvalidArgument);
}

}  // namespace
}  // namespace rondo::test
