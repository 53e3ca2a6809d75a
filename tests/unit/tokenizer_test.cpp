#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>
#include <tuple>

#include "io/json_config.h"
#include "models/tokenizers/added_tokens.h"
#include "models/tokenizers/charsmap.h"
#include "models/tokenizers/clip_tokenizer.h"
#include "models/tokenizers/t5_tokenizer.h"
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
  EXPECT_THROW(T5Tokenizer::load(folder.path()), FileError);
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

/// A tokenizer.json as transformers writes T5's, from the pieces of the bundled spiece.model.
nlohmann::json t5_json() {
  const std::string bytes = read_text_file(emoji_folder() / "tokenizer_2" / "spiece.model");
  sentencepiece::SentencePieceProcessor pieces;
  EXPECT_TRUE(pieces.LoadFromSerializedProto(bytes).ok());
  nlohmann::json vocab = nlohmann::json::array();
  for (int id = 0; id < pieces.GetPieceSize(); ++id) vocab.push_back({pieces.IdToPiece(id), pieces.GetScore(id)});
  nlohmann::json file = nlohmann::json::parse(R"({
    "added_tokens": [{"id": 0, "content": "<pad>", "normalized": false, "special": true}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                      {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true}]},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}]},
    "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": false}})");
  file["model"]["vocab"] = std::move(vocab);
  return file;
}

TEST(T5TokenizerJson, GivesTheIdsOfSpieceModel) {
  const TemporaryFolder folder;
  write_file(folder.path() / "tokenizer.json", t5_json().dump());
  const T5Tokenizer from_json = T5Tokenizer::load(folder.path());
  const T5Tokenizer from_pieces = T5Tokenizer::load(emoji_folder() / "tokenizer_2");
  EXPECT_EQ(from_json.largest_id(), from_pieces.largest_id());
  for (const char* text : {"", "red heart", "  three   cats!", "<pad>a</s> <unk>", "smiling face with sunglasses 123"})
    EXPECT_EQ(from_json.encode(text, 32).ids, from_pieces.encode(text, 32).ids) << text;
}

TEST(T5TokenizerJson, RefusesWhatItWouldReadOtherwise) {
  const auto refusal = [](const char* pointer, const nlohmann::json& value) -> std::string {
    const TemporaryFolder folder;
    nlohmann::json file = t5_json();
    file[nlohmann::json::json_pointer(pointer)] = value;
    write_file(folder.path() / "tokenizer.json", file.dump());
    try {
      T5Tokenizer::load(folder.path());
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  };
  const std::vector<std::tuple<const char*, nlohmann::json, const char*>> changes{
      {"/model/type", "BPE", "'type' is \"BPE\""},
      {"/model/byte_fallback", true, "'byte_fallback' is true"},
      {"/model/unk_id", 1'000'000, "'unk_id' is 1000000"},
      {"/model/vocab/0", "<pad>", "no pair of a piece and its score"},
      {"/model/vocab", nlohmann::json::array(), "'vocab' is no list"},
      {"/model/vocab/9", {std::string(2000, 'a'), -1.0}, "has a piece of 2000 bytes"},
      {"/normalizer", {{"type", "Lowercase"}}, "'type' is \"Lowercase\""},
      {"/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "!!!!"}}, "no table of SentencePiece"},
      {"/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}, "no table of SentencePiece"},
      {"/pre_tokenizer/type", "ByteLevel", "'type' is \"ByteLevel\""},
      {"/pre_tokenizer/pretokenizers/1/prepend_scheme", "never", "'prepend_scheme' is \"never\""},
      {"/post_processor/type", "BertProcessing", "'type' is \"BertProcessing\""},
      {"/post_processor/single", nlohmann::json::array(), "'single' is []"},
      {"/added_tokens/0/content", "", "adds a token without text"},
      {"/added_tokens/0/id", 7, "has the ids 7 and 0"}};
  for (const auto& [pointer, value, part] : changes)
    EXPECT_NE(refusal(pointer, value).find(part), std::string::npos) << pointer << ": " << refusal(pointer, value);
  // What changes nothing, as words are cut at white space.
  EXPECT_EQ(refusal("/normalizer",
                    {{"type", "Sequence"},
                     {"normalizers", {{{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}}}}}),
            "");
}

TEST(AddedTokens, AreCutOut) {
  AddedTokens tokens;
  tokens.add({"<s>", 1}, "test");
  tokens.add({"<st>", 2}, "test");
  tokens.add({.content = "own", .id = 3, .single_word = true}, "test");
  tokens.add({.content = "<in>", .id = 4, .lstrip = true, .rstrip = true}, "test");
  tokens.add({.content = "low", .id = 5, .normalized = true}, "test");
  const auto cut = [&](std::string_view text, bool normalized = false) {
    std::string parts;
    for (const TextSpan& span : tokens.split(text, normalized))
      parts += span.id ? fmt::format("({})", *span.id) : fmt::format("[{}]", span.text);
    return parts;
  };
  EXPECT_EQ(cut("a<s>b<s><st>"), "[a](1)[b](1)(2)");
  EXPECT_EQ(cut(""), "");
  EXPECT_EQ(cut("own crown owns own"), "(3)[ crown owns ](3)");
  EXPECT_EQ(cut("\u00e9own"), "[\u00e9own]");
  EXPECT_EQ(cut("a  <in> \u3000 b"), "[a](4)[b]");
  EXPECT_EQ(cut("low <s>"), "[low ](1)");
  EXPECT_EQ(cut("low <s>", true), "(5)[ <s>]");
  EXPECT_THROW(tokens.add({"<s>", 9}, "test"), FileError);
  EXPECT_THROW(tokens.add({"", 9}, "test"), FileError);
  EXPECT_THROW(tokens.add({std::string(2000, 'a'), 9}, "test"), FileError);
}

/// A placeholder of textual inversion, in each file that may declare it.
TEST_F(ClipTokenizerFiles, KnowsAddedTokens) {
  write("vocab.json", vocabulary_);
  write("merges.txt", "a b</w>\na b\n");
  const std::vector<std::int32_t> with_token{6, 2, 8, 3, 7, 7};
  write("added_tokens.json", R"({"<Ab>": 8})");
  EXPECT_EQ(load().encode("a <aB>b", 6).ids, with_token) << "looked for in lower case";
  EXPECT_EQ(load().largest_id(), 8);
  write("added_tokens.json", "{}");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"8": {"content": "<ab>", "special": true}}})");
  EXPECT_EQ(load().encode("a <ab>b", 6).ids, with_token);
  EXPECT_NE(load().encode("a <AB>b", 6).ids, with_token) << "looked for as given";
  write("tokenizer_config.json", "{}");
  write("tokenizer.json", R"({"added_tokens": [{"id": 8, "content": "<ab>", "normalized": true}]})");
  EXPECT_EQ(load().encode("a <ab>b", 6).ids, with_token);
  // Two that are one in lower case: the first is found.
  write("tokenizer.json", R"({"added_tokens": [{"id": 8, "content": "<AB>", "normalized": true},
                                               {"id": 9, "content": "<ab>", "normalized": true}]})");
  EXPECT_EQ(load().encode("a <ab>b", 6).ids, with_token);
  EXPECT_EQ(load().largest_id(), 9);
  for (const char* decoder : {R"({"x": {"content": "y"}})", R"({"99999999": {"content": "y"}})", R"({"8": {}})",
                              R"({"8": {"content": ""}})", R"([])", R"({"9": {"content": "<|endoftext|>"}})"}) {
    write("tokenizer_config.json", fmt::format(R"({{"added_tokens_decoder": {}}})", decoder));
    EXPECT_THROW(load(), FileError) << decoder;
  }
}

}  // namespace
}  // namespace rondo::test
