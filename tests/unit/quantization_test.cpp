// Quantised linears apart from their kernels: the arithmetic, the policy, the pass, what stands on disk.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/text.h"
#include "graph/builder.h"
#include "graph/model.h"
#include "graph/passes/quantize_linears.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "io/safetensors_writer.h"
#include "models/layers.h"
#include "ops/linear.h"
#include "pipelines/picture_quality.h"
#include "quantization/quantized_checkpoint.h"
#include "support/paths.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

LinearQuantization quantization(LinearFormat format, std::int64_t group = 0, std::int64_t rotation = 0) {
  LinearQuantization q;
  q.format = format;
  q.weight_limit = format == LinearFormat::w4a16 ? 7 : 127;
  q.group = group;
  q.rotation = rotation;
  return q;
}

Tensor positive_factors(std::int64_t count) {
  Tensor factors = random_tensor({count}, DType::f32, 5);
  for (std::int64_t i = 0; i < count; ++i) factors.as<float>()[i] = std::exp(factors.as<float>()[i]);
  return factors;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::equal(a.as<std::byte>(), a.as<std::byte>() + a.bytes(), b.as<std::byte>());
}

TEST(Quantization, ErrorIsHalfAStepAtMost) {
  const Tensor weight = random_tensor({9, 96}, DType::f32, 1);
  for (const LinearQuantization& q : {quantization(LinearFormat::w8a8), quantization(LinearFormat::w4a16, 32)}) {
    const QuantizedWeight quantized = quantize_weight(weight, q, 2);
    const Tensor back = dequantize_weight(quantized, q, 2);
    const std::int64_t group = q.group == 0 ? 96 : q.group;
    for (std::int64_t i = 0; i < weight.elements(); ++i) {
      const float step = quantized.scales.as<float>()[i / group];
      EXPECT_LE(std::abs(back.as<float>()[i] - weight.as<float>()[i]), 0.5001F * step) << q.to_string() << " at " << i;
    }
  }
}

TEST(Quantization, E4m3KeepsFourBitsOfEveryElement) {
  const Tensor weight = random_tensor({9, 96}, DType::f32, 1);
  for (const LinearFormat format : {LinearFormat::fp8, LinearFormat::fp8_per_tensor}) {
    const QuantizedWeight quantized = quantize_weight(weight, quantization(format), 2);
    const Tensor back = dequantize_weight(quantized, quantization(format), 2);
    std::set<float> scales;
    for (std::int64_t i = 0; i < weight.elements(); ++i) {
      const float scale = quantized.scales.as<float>()[i / 96];
      scales.insert(scale);
      const float wanted = weight.as<float>()[i];
      EXPECT_LE(std::abs(back.as<float>()[i] - wanted), std::max(std::abs(wanted) / 15, scale * 0x1p-10F)) << i;
    }
    EXPECT_EQ(scales.size(), format == LinearFormat::fp8 ? 9U : 1U);
  }
}

TEST(Quantization, QuantisingWhatWasDequantisedGivesTheSameIntegers) {
  const Tensor weight = random_tensor({33, 192}, DType::f32, 2);
  for (LinearQuantization q : {quantization(LinearFormat::w8a8), quantization(LinearFormat::w8a16, 0, 32),
                               quantization(LinearFormat::w4a16, 32), quantization(LinearFormat::w4a16, 64, 4),
                               quantization(LinearFormat::fp8), quantization(LinearFormat::fp8_per_tensor, 0, 32)}) {
    for (const bool smooths : {false, true}) {
      if (smooths) q.smooth = positive_factors(192);
      const QuantizedWeight once = quantize_weight(weight, q, 1);
      const QuantizedWeight twice = quantize_weight(dequantize_weight(once, q, 2), q, 2);
      EXPECT_TRUE(same_bytes(once.values, twice.values)) << q.to_string();
    }
  }
}

TEST(Quantization, RowsOfZerosAndOfInfinities) {
  Tensor weight = Tensor::zeros({3, 32}, DType::f32);
  weight.as<float>()[40] = INFINITY;
  weight.as<float>()[70] = 1;
  for (const LinearFormat format : {LinearFormat::w8a8, LinearFormat::fp8}) {
    const LinearQuantization q = quantization(format);
    const Tensor back = dequantize_weight(quantize_weight(weight, q, 1), q, 1);
    EXPECT_EQ(back.as<float>()[0], 0);
    EXPECT_FALSE(std::isfinite(back.as<float>()[40]));  // what was infinite does not become a number
    EXPECT_EQ(back.as<float>()[70], 1);
  }
}

TEST(Quantization, RotationIsOrthogonal) {
  for (const auto& [width, parts] : {std::pair<std::size_t, std::int64_t>(8, 8), {48, 16}, {192, 4}, {256, 128}}) {
    std::vector<std::vector<double>> columns;
    for (std::size_t i = 0; i < width; ++i) {
      std::vector<double> unit(width, 0.0);
      unit[i] = 1;
      rotate_row(std::span(unit), parts);
      columns.push_back(unit);
      rotate_row_back(std::span(unit), parts);
      for (std::size_t k = 0; k < width; ++k) EXPECT_NEAR(unit[k], i == k ? 1 : 0, 1e-12);
    }
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t j = 0; j < width; ++j) {
        double dot = 0;
        for (std::size_t k = 0; k < width; ++k) dot += columns[i][k] * columns[j][k];
        ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-12) << width << " / " << parts << ": " << i << ", " << j;
      }
    }
  }
}

TEST(Quantization, RotationAndSmoothingBringBackWhatOutliersCost) {
  Tensor x = random_tensor({1, 64, 256}, DType::f32, 3);
  for (std::int64_t r = 0; r < 64; ++r) x.as<float>()[r * 256 + 17] *= 80;
  const Tensor weight = random_tensor({32, 256}, DType::f32, 4, 1.0 / 16);
  const auto error = [&](const LinearQuantization& q) {
    const auto run = [&](const LinearOp& op) {
      const auto values = [](const Tensor& t) {
        return std::vector<double>(t.as<float>(), t.as<float>() + t.elements());
      };
      std::vector<RefTensor> outputs{{{1, 64, 32}, std::vector<double>(64 * 32)}};
      op.reference(std::vector<RefTensor>{{x.shape(), values(x)}, {weight.shape(), values(weight)}}, outputs);
      return std::vector<float>(outputs[0].values.begin(), outputs[0].values.end());
    };
    return compare_values(run(LinearOp()), run(LinearOp(std::nullopt, q))).relative_l2;
  };
  LinearQuantization smooth = quantization(LinearFormat::w8a8);
  smooth.smooth = Tensor::empty({256}, DType::f32);
  std::fill_n(smooth.smooth.as<float>(), 256, 1.0F);
  smooth.smooth.as<float>()[17] = 10;
  const double plain = error(quantization(LinearFormat::w8a8));
  EXPECT_LT(error(quantization(LinearFormat::w8a8, 0, 16)), 0.6 * plain);
  EXPECT_LT(error(smooth), 0.6 * plain);
}

TEST(Quantization, Int4InAByte) {
  Tensor values = Tensor::empty({3, 10}, DType::s8);
  for (std::int64_t i = 0; i < 30; ++i) values.as<std::int8_t>()[i] = static_cast<std::int8_t>(i % 15 - 7);
  const Tensor packed = pack_int4(values);
  EXPECT_EQ(packed.shape(), (Shape{3, 5}));
  EXPECT_EQ(packed.as<std::uint8_t>()[0], 0xa9);  // -7 low, -6 high
  EXPECT_TRUE(same_bytes(unpack_int4(packed), values));
}

TEST(Quantization, Selectors) {
  EXPECT_EQ(parse_selector("", "s"), std::vector<int>());
  EXPECT_EQ(parse_selector(" , ", "s"), std::vector<int>());
  EXPECT_EQ(parse_selector("0-2,4", "s"), (std::vector<int>{0, 1, 2, 4}));
  std::string again;
  for (int i = 0; i < 100'000; ++i) again += "0-9999,";
  EXPECT_EQ(parse_selector(again, "s").size(), 10'000U);
  for (const std::string text : {"", "7", "0-2,4", "0,1", "3,5,7-9999"})
    EXPECT_EQ(selector_text(parse_selector(text, "s")), text);
  EXPECT_EQ(parse_selector(" 4 , 0-2,1", "s"), (std::vector<int>{0, 1, 2, 4}));
  for (const char* bad : {"4-2", "-1", "a", "1.5", "1-", "0-99999999", "1 2", "+1"}) {
    try {
      parse_selector(std::string("3,") + bad, "skip");
      ADD_FAILURE() << bad;
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(std::string("skip: '") + bad + "'"), std::string::npos) << error.what();
    }
  }
}

TEST(Quantization, Policy) {
  QuantizationPolicy policy;
  EXPECT_FALSE(policy.active());
  policy.format = LinearFormat::w8a8;
  EXPECT_TRUE(decide_layer(policy, "blocks.0.attn.to_q", 64).quantization);
  EXPECT_EQ(decide_layer(policy, "blocks.0.norm1.linear", 64).reason, "'*norm*' excludes it");
  EXPECT_FALSE(decide_layer(policy, "proj_out", 64).quantization);
  EXPECT_TRUE(decide_layer(policy, "single.0.proj_out", 64).quantization);
  policy.rules = {{"*attn*", std::nullopt}, {"*.to_q", LinearFormat::w4a16}, {"*norm1*", LinearFormat::w8a16}};
  EXPECT_FALSE(decide_layer(policy, "blocks.0.attn.to_k", 64).quantization);
  EXPECT_EQ(decide_layer(policy, "blocks.0.attn.to_q", 64).quantization->format, LinearFormat::w4a16);
  EXPECT_EQ(decide_layer(policy, "blocks.0.attn.to_q", 96).reason, "groups of 64 do not divide its 96 inputs");
  EXPECT_EQ(decide_layer(policy, "blocks.0.norm1.linear", 64).quantization->format, LinearFormat::w8a16);
}

/// Two linears, an activation, a linear: quantised ones join and fuse as others do, and fall back at their steps.
void build_linears(GraphBuilder& b) {
  const Scope root(b, DType::f32);
  const ValueId x = b.input("x", {{2, 40, 64}, DType::f32, {}});
  const ValueId hidden = add(b, linear(root / "a", x, 128), linear(root / "b", x, 128));
  b.output("y", linear(root / "norm.c", activation(b, linear(root / "d", hidden, 96), ActivationKind::silu), 32));
}

Graph linears() {
  GraphBuilder b;
  build_linears(b);
  return b.finish();
}

Tensor run_linears(const QuantizationPolicy& policy, int step, bool compiles,
                   std::vector<std::string>* nodes = nullptr) {
  Model model(std::make_shared<RandomWeights>(linears()));
  PlanOptions options;
  options.target.threads = 2;
  options.quantization = policy;
  options.passes.only_is_set = !compiles;
  Session session(model.plan("test", options, linears));
  for (const Node& node : session.plan().graph().nodes) {
    if (nodes != nullptr && node.op->name() == "linear") nodes->push_back(node.op->attributes());
  }
  Tensor input = session.input("x");
  const Tensor noise = random_tensor(input.shape(), DType::f32, 6);
  std::copy_n(noise.as<std::byte>(), noise.bytes(), input.as<std::byte>());
  RunContext context;
  context.step = step;
  session.run(context);
  return session.output("y").to(DType::f32);
}

TEST(Quantization, PassGoesWithTheOthersAndStepsFallBackBitForBit) {
  QuantizationPolicy policy;
  policy.format = LinearFormat::w8a8;
  policy.skip_steps = {1, 3};
  const Tensor native = run_linears({}, 0, true);
  std::vector<std::string> nodes;
  const Tensor quantized = run_linears(policy, 0, true, &nodes);
  EXPECT_EQ(nodes.size(), 3U);  // a and b became one
  EXPECT_EQ(nodes.back(), "");  // 'norm' keeps c as it is
  EXPECT_TRUE(nodes[1].starts_with("silu w8a8")) << nodes[1];
  EXPECT_FALSE(same_bytes(quantized, native));
  EXPECT_LE(relative_error(quantized, native), 0.05);
  EXPECT_LE(relative_error(quantized, run_linears(policy, 2, false)), 0.02);
  EXPECT_TRUE(same_bytes(run_linears(policy, 1, true), native));
  EXPECT_TRUE(same_bytes(run_linears(policy, 3, true), native));
}

class QuantizedFolder : public ::testing::Test {
 protected:
  /// A checkpoint of one layer "l" [4, 32] and a bias, quantised so; `change` may spoil the description.
  std::shared_ptr<const QuantizedCheckpoint> open(
      const LinearQuantization& q, const std::function<void(nlohmann::json&)>& change = [](nlohmann::json&) {}) {
    const Tensor weight = random_tensor({4, 32}, DType::f32, 7);
    const QuantizedWeight quantized = quantize_weight(weight, q, 1);
    std::map<std::string, Tensor> tensors{{"l.bias", random_tensor({4}, DType::f32, 8)},
                                          {"l.weight_scale", quantized.scales}};
    const bool packed = q.format == LinearFormat::w4a16;
    tensors[stored_weight_name("l", q.format)] = packed ? pack_int4(quantized.values) : quantized.values;
    if (q.smooth.defined()) tensors["l.smooth_scale"] = q.smooth;
    std::vector<TensorToWrite> list;
    for (const auto& [name, tensor] : tensors) list.push_back({name, tensor.dtype(), tensor.shape()});
    write_safetensors(folder_.path() / "model.safetensors", list,
                      [&](const std::string& name) { return tensors.at(name); });
    nlohmann::json config{{"quantization_config", describe_quantization({{"l", q}})}};
    change(config["quantization_config"]);
    return QuantizedCheckpoint::open(Checkpoint::open(folder_.path()), JsonConfig(config, "config.json"));
  }
  void expect_refused(const std::function<void(nlohmann::json&)>& change, const std::string& message) {
    try {
      open(quantization(LinearFormat::w8a8), change);
      ADD_FAILURE() << message;
    } catch (const FileError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  }

  TemporaryFolder folder_;
};

TEST_F(QuantizedFolder, GivesWhatWasQuantised) {
  for (LinearQuantization q : {quantization(LinearFormat::w8a8), quantization(LinearFormat::w8a16, 0, 16),
                               quantization(LinearFormat::w4a16, 16), quantization(LinearFormat::fp8, 0, 16),
                               quantization(LinearFormat::fp8_per_tensor)}) {
    for (const bool smooths : {false, true}) {
      if (smooths) q.smooth = positive_factors(32);
      const auto checkpoint = open(q);
      const Tensor weight = random_tensor({4, 32}, DType::f32, 7);
      EXPECT_TRUE(same_bytes(checkpoint->tensor("l.weight"), dequantize_weight(quantize_weight(weight, q, 1), q, 1)));
      EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"l.bias", "l.weight"}));
      EXPECT_EQ(checkpoint->find("l.weight")->shape, (Shape{4, 32}));
      EXPECT_EQ(checkpoint->layers().at("l").to_string(), q.to_string());
    }
  }
}

TEST_F(QuantizedFolder, RefusesWhatDoesNotHoldTogether) {
  expect_refused([](auto& c) { c["quant_method"] = "awq"; }, "'quant_method' is \"awq\"; known is rondo");
  expect_refused([](auto& c) { c["format_version"] = 2; }, "'format_version' is 2");
  expect_refused([](auto& c) { c["layers"] = 3; }, "'layers' is 3");
  expect_refused([](auto& c) { c["layers"]["l"] = 3; }, "layers: 'l': is no object");
  expect_refused([](auto& c) { c["layers"]["l"]["format"] = "w2"; }, "format: 'w2' is given");
  expect_refused([](auto& c) { c["layers"]["l"]["format"] = "w4a16"; }, "has no tensor 'l.weight_packed'");
  EXPECT_NE(message_of([&] {
              open(quantization(LinearFormat::fp8), [](auto& c) { c["layers"]["l"]["format"] = "fp8-per-tensor"; });
            }).find("fp8-per-tensor needs one scale"),
            std::string::npos);
  expect_refused([](auto& c) { c["layers"]["l"]["format"] = "fp8"; }, "dtype int8; quantization_config needs float8");
  expect_refused([](auto& c) { c["layers"]["l"]["group"] = 7; }, "'group' is 7");
  expect_refused([](auto& c) { c["layers"]["l"]["group"] = 16; }, "tensor 'l.weight_scale' has shape [4, 1]");
  expect_refused([](auto& c) { c["layers"]["l"]["rotation"] = 12; }, "'rotation' is 12");
  expect_refused([](auto& c) { c["layers"]["l"]["rotation"] = -4; }, "'rotation' is -4");
  expect_refused([](auto& c) { c["layers"]["l"]["smooth"] = true; }, "has no tensor 'l.smooth_scale'");
  expect_refused([](auto& c) { c["layers"]["other"] = {{"format", "w8a8"}}; }, "has no tensor 'other.weight'");
}

TEST(PictureQuality, KnownValues) {
  Image a{16, 12, std::vector<std::uint8_t>(16 * 12 * 3, 100)};
  Image b = a;
  EXPECT_EQ(compare_pictures(a, b).psnr, INFINITY);
  EXPECT_NEAR(compare_pictures(a, b).ssim, 1, 1e-12);
  for (std::uint8_t& level : b.pixels) level = 110;  // PSNR = 20 log10(25.5); of flat pictures only the means differ
  EXPECT_NEAR(compare_pictures(a, b).psnr, 28.1308, 1e-3);
  EXPECT_NEAR(compare_pictures(a, b).ssim, (2 * 100 * 110 + 6.5025) / (100 * 100 + 110 * 110 + 6.5025), 1e-9);
  EXPECT_THROW(compare_pictures(a, Image{12, 16, b.pixels}), InvalidArgument);
}

}  // namespace
}  // namespace rondo::test
