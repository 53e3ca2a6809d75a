#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "io/json_config.h"
#include "models/tokenizers/charsmap.h"
#include "models/tokenizers/clip_tokenizer.h"
#include "models/tokenizers/t5_tokenizer.h"
#include "models/tokenizers/tokenizer_config.h"
#include "rondo/error.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

class ClipTokenizerFiles : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) { write_file(folder_.path() / name, text); }
  ClipTokenizer load() { return ClipTokenizer::load(folder_.path()); }
  TemporaryFolder folder_;
  const std::string vocabulary_ =
      R"({"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "ab": 5, "<|startoftext|>": 6, "<|endoftext|>": 7})";
};

TEST_F(ClipTokenizerFiles, MergesByRank) {
  write("vocab.json", vocabulary_);
  write("merges.txt", "#version: 0.2\na b</w>\na b\n");
  const ClipTokenizer tokenizer = load();
  EXPECT_EQ(tokenizer.encode("ab aba", 8).ids, (std::vector<std::int32_t>{6, 4, 5, 2, 7, 7, 7, 7}));
  EXPECT_EQ(tokenizer.max_length(), 77);
  EXPECT_TRUE(tokenizer.encode("a b a b", 4).truncated);
  EXPECT_EQ(tokenizer.encode("c", 4).ids, (std::vector<std::int32_t>{6, 7, 7, 7}))
      << "an unknown byte is the unknown token";
}

TEST_F(ClipTokenizerFiles, ReadsTokenizerJsonAlone) {
  for (const char* merges : {R"(["a b</w>", "a b"])", R"([["a", "b</w>"], ["a", "b"]])"}) {
    write("tokenizer.json", R"({"model": {"type": "BPE", "vocab": )" + vocabulary_ + R"(, "merges": )" + merges + "}}");
    EXPECT_EQ(load().encode("ab", 4).ids, (std::vector<std::int32_t>{6, 4, 7, 7}));
  }
}

TEST_F(ClipTokenizerFiles, RefusesDamage) {
  EXPECT_THROW(load(), FileError);
  write("vocab.json", vocabulary_);
  EXPECT_THROW(load(), FileError) << "no merges";
  for (const char* merges : {"a\n", "a c\n", " a\n", "b a\n"}) {
    write("merges.txt", merges);
    EXPECT_THROW(load(), FileError) << merges;
  }
  write("merges.txt", "");
  EXPECT_NO_THROW(load());
  for (const char* vocabulary : {"{}", "[]", R"({"a": -1})", R"({"a": 1.5})", R"({"a": 99999999999})", R"({"a": 1})"}) {
    write("vocab.json", vocabulary);
    EXPECT_THROW(load(), FileError) << vocabulary;
  }
  write("vocab.json", vocabulary_);
  write("tokenizer_config.json", R"({"pad_token": "<pad>"})");
  EXPECT_THROW(load(), FileError);
  write("tokenizer_config.json", R"({"unk_token": ""})");
  EXPECT_THROW(load(), FileError) << "an empty token would match for ever";
  write("tokenizer_config.json", R"({"model_max_length": -3})");
  EXPECT_THROW(load(), FileError);
  write("tokenizer_config.json",
        R"({"model_max_length": 1000000000000000019884624838656, "pad_token": {"content": "a"}})");
  EXPECT_EQ(load().max_length(), 77);
}

TEST(ClipTokenizer, AWordOfAMegabyteTakesNoQuadraticTime) {
  const ClipTokenizer tokenizer = ClipTokenizer::load(emoji_folder() / "tokenizer");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(tokenizer.encode(std::string(1'000'000, 'a'), 32).truncated);
  // Quadratic time would be hours; the bound leaves room for the slowest machine and sanitizers.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(T5Tokenizer, RefusesDamage) {
  const TemporaryFolder folder;
  EXPECT_THROW(T5Tokenizer::load(folder.path()), FileError);
  write_file(folder.path() / "tokenizer.json", "{}");
  try {
    T5Tokenizer::load(folder.path());
    FAIL();
  } catch (const FileError& error) {
    EXPECT_NE(std::string(error.what()).find("spiece.model"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("tokenizer.json"), std::string::npos);
  }
  for (const std::string& bytes : {std::string(), std::string("garbage"), std::string(1000, '\xff')}) {
    write_file(folder.path() / "spiece.model", bytes);
    EXPECT_THROW(T5Tokenizer::load(folder.path()), FileError);
  }
}

/// SentencePiece walks the table without a check; a flipped bit in it used to crash.
TEST(T5Tokenizer, ADamagedNormalisationTableIsRefusedOrHarmless) {
  const std::string good = read_text_file(emoji_folder() / "tokenizer_2" / "spiece.model");
  ASSERT_TRUE(read_charsmap(good));
  std::mt19937 engine(1);
  const TemporaryFolder folder;
  int refused = 0;
  for (int round = 0; round < 200; ++round) {
    std::string bad = good;
    for (int i = 0; i < 8; ++i) bad[engine() % bad.size()] ^= static_cast<char>(1U << (engine() % 8));
    write_file(folder.path() / "spiece.model", bad);
    try {
      const T5Tokenizer tokenizer = T5Tokenizer::load(folder.path());
      tokenizer.encode("Caf\u00e9 \u00bd \uff21 \u3000 A\u0301 fi\ufb01", 32);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(SpecialTokens, AreCutOut) {
  const std::vector<TextSpan> spans = split_special_tokens("a<s>b<s><st>", {"<s>", "<st>"});
  ASSERT_EQ(spans.size(), 5U);
  EXPECT_EQ(spans[0].text, "a");
  EXPECT_TRUE(spans[1].is_special);
  EXPECT_FALSE(spans[2].is_special);
  EXPECT_EQ(spans[4].text, "<st>");
  EXPECT_TRUE(split_special_tokens("", {"<s>"}).empty());
}

}  // namespace
}  // namespace rondo::test
