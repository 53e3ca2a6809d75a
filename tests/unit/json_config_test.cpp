#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/json_config.h"
#include "models/autoencoder_kl.h"
#include "models/clip_text.h"
#include "models/flux_transformer.h"
#include "models/t5_encoder.h"
#include "rondo/error.h"
#include "schedulers/flow_match_euler.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

JsonConfig config(const std::string& text) { return {parse_json(text, "test.json"), "test.json"}; }

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* bad :
       {"", "{", "[1,]", "{\"a\":1,}", "nul", "{\"a\" 1}", "\xff", "{\"a\":\"\xff\"}", "1 2", "{\"a\":1e999}"}) {
    EXPECT_THROW(parse_json(bad, "test.json"), FileError) << bad;
  }
}

TEST(Json, RefusesDuplicateKeysAndDepth) {
  EXPECT_THROW(parse_json(R"({"a": 1, "b": {"c": 1, "c": 2}})", "test.json"), FileError);
  EXPECT_NO_THROW(parse_json(R"({"a": {"c": 1}, "b": {"c": 1}})", "test.json"));
  EXPECT_THROW(parse_json(std::string(100'000, '['), "test.json"), FileError);
  EXPECT_THROW(parse_json(std::string(70, '[') + std::string(70, ']'), "test.json"), FileError);
}

/// Python's json module writes these three.
TEST(Json, TakesNumbersThatAreNotFiniteWhereNobodyReadsThem) {
  const std::string text = R"({"a": Infinity, "b": [0.0, -Infinity], "c": NaN, "d": "NaN, \"Infinity", "n": 1})";
  const JsonConfig c = config(text);
  EXPECT_EQ(c.integer("n", 0, 0, 9), 1);
  EXPECT_EQ(c.text("d", ""), "NaN, \"Infinity");
  EXPECT_TRUE(std::isnan(c.object()["c"].get<double>()));
  const auto refusal = [&](const char* key) -> std::string {
    try {
      c.number(key, 0.0);
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal("a").find("'a' is Infinity; allowed is a number"), std::string::npos) << refusal("a");
  EXPECT_NE(refusal("c").find("'c' is NaN"), std::string::npos) << refusal("c");
  EXPECT_THROW(c.text("a", ""), FileError);
  EXPECT_THROW(c.integer("a", 0, 0, 9), FileError);
  EXPECT_THROW(c.integers("b", {}, 0, 9), FileError);
  // Written again, they are what they were.
  const std::string again = dump_config(c.object());
  for (const char* part : {"\"a\": Infinity", "-Infinity", "\"c\": NaN", R"("NaN, \"Infinity")"})
    EXPECT_NE(again.find(part), std::string::npos) << again;
  EXPECT_EQ(dump_config(parse_json(again, "test.json")), again);
  for (const char* bad : {"Infinit", "{\"a\": -NaN}", "{\"a\": NaN", "{\"a\": +Infinity}", "{NaN: 1}x", "nan"})
    EXPECT_THROW(parse_json(bad, "test.json"), FileError) << bad;
  EXPECT_THROW(parse_json(R"({"a": NaN, "a": 1})", "test.json"), FileError);
}

TEST(JsonConfig, ErrorsSayFileKeyValueAndWhatIsAllowed) {
  try {
    config(R"({"n": "three"})").integer("n", 1, 1, 10);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_STREQ(error.what(), R"(test.json: 'n' is "three"; allowed is an integer from 1 to 10)");
  }
}

TEST(JsonConfig, ChecksTypesAndRanges) {
  const JsonConfig c = config(
      R"({"i": 5, "big": 18446744073709551615, "f": 1.5, "s": "x", "b": true, "n": null, "l": [1, 2], "bad": [1, "x"]})");
  EXPECT_EQ(c.integer("i", 0, 0, 10), 5);
  EXPECT_EQ(c.integer("absent", 7, 0, 10), 7);
  EXPECT_EQ(c.integer("n", 7, 0, 10), 7);
  EXPECT_THROW(c.integer("absent", std::nullopt, 0, 10), FileError);
  EXPECT_THROW(c.integer("i", 0, 6, 10), FileError);
  EXPECT_THROW(c.integer("f", 0, 0, 10), FileError);
  EXPECT_THROW(c.integer("big", 0, 0, INT64_MAX), FileError);
  EXPECT_EQ(c.number("i", 0), 5.0);
  EXPECT_THROW(c.number("s", 0), FileError);
  EXPECT_TRUE(c.boolean("b", false));
  EXPECT_THROW(c.boolean("i", false), FileError);
  EXPECT_THROW(c.text("i", ""), FileError);
  EXPECT_EQ(c.integers("l", {}, 0, 10), (std::vector<std::int64_t>{1, 2}));
  EXPECT_THROW(c.integers("bad", {}, 0, 10), FileError);
  EXPECT_THROW(c.integers("i", {}, 0, 10), FileError);
}

/// Every bad config of the list is refused by the parser of its model.
template <typename Parse>
void expect_refused(const Parse& parse, const std::vector<std::string>& bad) {
  EXPECT_NO_THROW(parse(config("{}")));
  for (const std::string& text : bad) EXPECT_THROW(parse(config(text)), FileError) << text;
}

TEST(ModelConfigs, FluxTransformer) {
  expect_refused(
      FluxTransformerConfig::parse,
      {R"({"attention_head_dim": 60})", R"({"attention_head_dim": 0})", R"({"axes_dims_rope": [16, 56, 58]})",
       R"({"axes_dims_rope": [16, 112]})", R"({"axes_dims_rope": [15, 57, 56]})", R"({"axes_dims_rope": "x"})",
       R"({"patch_size": 2})", R"({"in_channels": 6})", R"({"num_layers": -1})", R"({"num_layers": 1e3})",
       R"({"guidance_embeds": 1})", R"({"num_attention_heads": 100000})", R"({"out_channels": 32})"});
}

TEST(ModelConfigs, T5) {
  const auto parse = [](const JsonConfig& c) {
    return c.object().empty() ? T5EncoderConfig::parse(config(R"({"feed_forward_proj": "gated-gelu"})"))
                              : T5EncoderConfig::parse(c);
  };
  expect_refused(parse, {R"({"feed_forward_proj": "relu"})", R"({"d_model": 192})",
                         R"({"feed_forward_proj": "gated-gelu", "num_layers": 0})",
                         R"({"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 8})"});
}

TEST(ModelConfigs, Clip) {
  expect_refused(ClipTextConfig::parse, {R"({"hidden_act": "relu"})", R"({"num_attention_heads": 7})",
                                         R"({"vocab_size": -5})", R"({"max_position_embeddings": 1})"});
}

TEST(ModelConfigs, AutoencoderKl) {
  expect_refused(AutoencoderKlConfig::parse,
                 {R"({"scaling_factor": 0})", R"({"norm_num_groups": 7})", R"({"block_out_channels": []})",
                  R"({"block_out_channels": [32, 33]})", R"({"act_fn": "relu"})",
                  R"({"down_block_types": ["AttnDownEncoderBlock2D"]})", R"({"latents_mean": [0.1]})",
                  R"({"in_channels": 4})", R"({"block_out_channels": [32,32,32,32,32,32,32,32,32]})"});
}

TEST(ModelConfigs, Scheduler) {
  expect_refused(FlowMatchEulerScheduler::parse,
                 {R"({"num_train_timesteps": 0})", R"({"use_beta_sigmas": true})", R"({"stochastic_sampling": true})",
                  R"({"time_shift_type": "cubic"})", R"({"shift": 0})", R"({"shift_terminal": 1.0})",
                  R"({"base_image_seq_len": 256, "max_image_seq_len": 256})",
                  R"({"use_karras_sigmas": true, "use_exponential_sigmas": true})"});
}

}  // namespace
}  // namespace rondo::test
