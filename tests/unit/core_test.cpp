#include <gtest/gtest.h>

#include <cmath>

#include "core/env.h"
#include "core/float_formats.h"
#include "core/log.h"
#include "core/text.h"
#include "core/trace.h"
#include "rondo/error.h"
#include "rondo/log.h"
#include "rondo/tensor.h"

namespace rondo::test {
namespace {

TEST(Shape, CountsAndPrints) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.elements(), 24);
  EXPECT_EQ(shape.rows(), 6);
  EXPECT_EQ(shape.dense_strides(), (Shape{12, 4, 1}));
  EXPECT_EQ(shape.to_string(), "[2, 3, 4]");
  EXPECT_EQ(Shape{}.elements(), 1);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), InvalidArgument);
}

TEST(Tensor, IsAlignedAndSharesMemory) {
  Tensor a = Tensor::zeros({3, 5}, DType::f32);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 64, 0U);
  const Tensor b = a;
  a.as<float>()[7] = 2.0F;
  EXPECT_EQ(b.as<float>()[7], 2.0F);
}

TEST(Tensor, SlicesAreViews) {
  Tensor a = Tensor::empty({4, 6}, DType::s32);
  for (int i = 0; i < 24; ++i) a.as<std::int32_t>()[i] = i;
  const Tensor part = a.sliced(0, 1, 3).sliced(1, 2, 5);
  EXPECT_EQ(part.shape(), (Shape{2, 3}));
  EXPECT_FALSE(part.is_dense());
  EXPECT_EQ(part.as<std::int32_t>()[0], 8);
  EXPECT_EQ(part.to_float32().as<float>()[3], 14.0F);
  EXPECT_THROW(part.reshaped({6}), InvalidArgument);
  EXPECT_THROW(a.sliced(1, 4, 7), InvalidArgument);
  EXPECT_THROW(a.sliced(2, 0, 1), InvalidArgument);
}

TEST(FloatFormats, Bfloat16RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(float_to_bf16(1.00390625F), 0x3f80);  // half way: to even
  EXPECT_EQ(float_to_bf16(1.01171875F), 0x3f82);  // half way: to even
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
  EXPECT_TRUE(std::isinf(bf16_to_float(float_to_bf16(INFINITY))));
}

TEST(FloatFormats, EveryFloat16GoesThereAndBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = f16_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value))));
    } else {
      EXPECT_EQ(float_to_f16(value), bits);
    }
  }
  EXPECT_EQ(float_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(float_to_f16(65519.0F), 0x7bff);
  EXPECT_EQ(float_to_f16(0x1p-25F), 0);  // half the smallest: to even
}

TEST(FloatFormats, EveryFloat8GoesThereAndBack) {
  for (std::uint32_t bits = 0; bits < 0x100; ++bits) {
    const float value = f8_e4m3_to_float(static_cast<std::uint8_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(float_to_f8_e4m3(value), bits) << value;
  }
  EXPECT_EQ(f8_e4m3_to_float(0x7e), 448.0F);
  EXPECT_EQ(float_to_f8_e4m3(1e9F), 0x7e);
  EXPECT_EQ(f8_e4m3_to_float(0x01), 0x1p-9F);
}

TEST(Text, ValidUtf8) {
  EXPECT_TRUE(is_valid_utf8(""));
  EXPECT_TRUE(is_valid_utf8("naïve 北京 🚀"));
  EXPECT_FALSE(is_valid_utf8("\xff"));
  EXPECT_FALSE(is_valid_utf8("\xc0\x80"));      // overlong
  EXPECT_FALSE(is_valid_utf8("\xed\xa0\x80"));  // surrogate
  EXPECT_FALSE(is_valid_utf8("\xf0\x9f\x9a"));  // cut short
  EXPECT_EQ(printable("a\nb\xff"), "a\\x0ab\\xff");
  EXPECT_EQ(printable(std::string(500, 'x'), 10).size(), 13U);
}

TEST(Text, HumanCounts) {
  EXPECT_EQ(human_count(65.2e12, "FLOP"), "65.2 TFLOP");
  EXPECT_EQ(human_count(999.6e6, "FLOP"), "1 GFLOP");
  EXPECT_EQ(human_count(0, "FLOP"), "0 FLOP");
  EXPECT_EQ(human_count(12345e18, "FLOP"), "12345 EFLOP");
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1500), "1.5 kB");
  EXPECT_EQ(human_bytes(23'500'000'000), "23.5 GB");
}

TEST(Env, OnlyListedVariablesAreRead) { EXPECT_THROW(env_value("RONDO_NOT_LISTED"), Error); }

TEST(Log, IsSilentUntilAsked) {
  std::vector<std::string> seen;
  log(LogLevel::error, "nobody listens");
  set_log_sink(LogLevel::warning, [&](LogLevel, std::string_view message) { seen.emplace_back(message); });
  log(LogLevel::info, "below the level");
  log(LogLevel::warning, "number {}", 7);
  set_log_sink(LogLevel::off, {});
  log(LogLevel::error, "nobody listens");
  EXPECT_EQ(seen, std::vector<std::string>{"number 7"});
}

TEST(Trace, ScopesNestAndMayBeOff) {
  Trace trace;
  {
    const TraceScope outer(&trace, "outer");
    const TraceScope inner(&trace, "inner");
    const TraceScope off(nullptr, "off");
  }
  ASSERT_EQ(trace.events().size(), 2U);
  EXPECT_EQ(trace.events()[0].name, "inner");
  EXPECT_GE(trace.events()[1].duration_ms, trace.events()[0].duration_ms);
}

TEST(DType, NamesAreTheFields) {
  EXPECT_EQ(parse_dtype("bf16"), DType::bf16);
  EXPECT_EQ(parse_dtype("float8_e4m3fn"), DType::f8_e4m3);
  EXPECT_THROW(parse_dtype("float17"), InvalidArgument);
}

}  // namespace
}  // namespace rondo::test
