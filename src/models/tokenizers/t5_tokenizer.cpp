#include "models/tokenizers/t5_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "models/tokenizers/tokenizer_config.h"
#include "models/tokenizers/unigram_model.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// The words between white space, each behind a mark.
std::string mark_words(std::string_view text) {
  std::string marked;
  std::string_view rest = text;
  std::size_t word_bytes = 0;
  const auto end_word = [&] {
    const std::string_view word = rest.substr(0, word_bytes);
    if (!word.empty() && word.substr(0, UnigramSegmenter::kWordStart.size()) != UnigramSegmenter::kWordStart)
      marked += UnigramSegmenter::kWordStart;
    marked += word;
  };
  while (word_bytes < rest.size()) {
    const Utf8Character next = first_character(rest.substr(word_bytes));
    if (!is_whitespace(next.code)) {
      word_bytes += next.bytes;
      continue;
    }
    end_word();
    rest.remove_prefix(word_bytes + next.bytes);
    word_bytes = 0;
  }
  end_word();
  return marked;
}

}  // namespace

T5Tokenizer T5Tokenizer::load(const std::filesystem::path& folder) {
  const std::filesystem::path pieces = folder / "spiece.model";
  const std::filesystem::path json = folder / "tokenizer.json";
  const bool has_json_only = !std::filesystem::exists(pieces) && std::filesystem::exists(json);
  const std::filesystem::path& file = has_json_only ? json : pieces;
  T5Tokenizer tokenizer;
  tokenizer.model_ =
      std::make_shared<const UnigramModel>(has_json_only ? read_unigram_json(json) : read_sentencepiece(pieces));
  const UnigramSegmenter& segmenter = tokenizer.model_->segmenter;
  const JsonConfig config = load_tokenizer_config(folder);
  tokenizer.max_length_ = model_max_length(config, 0);
  tokenizer.added_.read(folder, config,
                        [&](std::string_view text) { return tokenizer.model_->charsmap.normalize(text); });

  const auto require = [&](const char* key, const char* absent) {
    const std::string token = special_token(config, key, absent);
    const auto id = segmenter.find(token);
    if (!id) throw FileError(fmt::format("{}: has no piece '{}'", file.string(), printable(token)));
    tokenizer.added_.add({token, *id}, file.string());
    return *id;
  };
  tokenizer.end_ = require("eos_token", "</s>");
  tokenizer.padding_ = require("pad_token", "<pad>");
  require("unk_token", "<unk>");
  // The sentinels stand behind the pieces, the last one first. tokenizer.json lists those that there are.
  const std::int64_t extra = config.integer("extra_ids", has_json_only ? 0 : 100, 0, 10'000);
  for (std::int64_t i = 0; i < extra; ++i) {
    const std::string sentinel = fmt::format("<extra_id_{}>", i);
    if (!tokenizer.added_.contains(sentinel))
      tokenizer.added_.add({sentinel, static_cast<std::int32_t>(segmenter.size() + extra - 1 - i)}, file.string());
  }
  return tokenizer;
}

std::int32_t T5Tokenizer::largest_id() const { return model_->segmenter.size() - 1; }

T5Tokenizer::Encoding T5Tokenizer::encode(std::string_view text, std::int64_t length) const {
  if (length < 1) throw InvalidArgument(fmt::format("t5 tokenizer: length {} is given; allowed is 1 and more", length));
  std::vector<std::int32_t> ids;
  for (const TextSpan& given : added_.split(text, false)) {
    if (given.id) {
      ids.push_back(*given.id);
      continue;
    }
    for (const TextSpan& span : added_.split(model_->charsmap.normalize(given.text), true)) {
      if (span.id) {
        ids.push_back(*span.id);
      } else {
        model_->segmenter.segment(mark_words(span.text), ids);
      }
    }
  }
  Encoding encoding;
  const auto room = static_cast<std::size_t>(length - 1);
  encoding.truncated = ids.size() > room;
  ids.resize(std::min(ids.size(), room));
  ids.push_back(end_);
  ids.resize(static_cast<std::size_t>(length), padding_);
  encoding.ids = std::move(ids);
  return encoding;
}

}  // namespace rondo
