#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/json_config.h"
#include "models/tokenizers/clip_tokenizer.h"
#include "models/tokenizers/t5_tokenizer.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

/// Stored ids leave padding out: the last id repeats up to the length.
std::vector<std::int32_t> padded(const nlohmann::json& stored, std::size_t length) {
  auto ids = stored.get<std::vector<std::int32_t>>();
  ids.resize(length, ids.back());
  return ids;
}

class TokenizerGolden : public ::testing::Test {
 protected:
  template <typename Tokenizer>
  void compare(const Tokenizer& tokenizer, const std::string& name, std::size_t length) {
    const JsonConfig golden = JsonConfig::load(data_folder() / "tokenizers.json");
    ASSERT_GE(golden.object()["rows"].size(), 60U);
    for (const auto& row : golden.object()["rows"]) {
      const auto prompt = row["prompt"].get<std::string>();
      EXPECT_EQ(tokenizer.encode(prompt, static_cast<std::int64_t>(length)).ids, padded(row[name], length))
          << row["prompt"];
    }
  }
};

TEST_F(TokenizerGolden, Clip) {
  const ClipTokenizer tokenizer = ClipTokenizer::load(emoji_folder() / "tokenizer");
  compare(tokenizer, "clip_32", 32);
  compare(tokenizer, "clip_77", 77);
}

TEST_F(TokenizerGolden, T5) {
  const T5Tokenizer tokenizer = T5Tokenizer::load(emoji_folder() / "tokenizer_2");
  compare(tokenizer, "t5_32", 32);
  compare(tokenizer, "t5_512", 512);
}

}  // namespace
}  // namespace rondo::test
