#include "models/tokenizers/t5_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/text.h"
#include "models/tokenizers/charsmap.h"
#include "models/tokenizers/tokenizer_config.h"
#include "models/tokenizers/unigram_segmenter.h"
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

struct T5Tokenizer::Processor {
  sentencepiece::SentencePieceProcessor pieces;
  Charsmap charsmap;
  UnigramSegmenter segmenter;
};

T5Tokenizer T5Tokenizer::load(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "spiece.model";
  if (!std::filesystem::exists(file) && std::filesystem::exists(folder / "tokenizer.json")) {
    throw FileError(fmt::format(
        "{}: is missing and tokenizer.json is not read; copy spiece.model from the model's publisher", file.string()));
  }
  T5Tokenizer tokenizer;
  auto processor = std::make_shared<Processor>();
  const std::string model = read_text_file(file);
  auto charsmap = read_charsmap(model);
  if (!charsmap || !processor->pieces.LoadFromSerializedProto(model).ok() || processor->pieces.GetPieceSize() <= 0) {
    throw FileError(fmt::format("{}: is no SentencePiece model", file.string()));
  }
  processor->charsmap = std::move(*charsmap);
  const sentencepiece::SentencePieceProcessor& pieces = processor->pieces;
  for (int id = 0; id < pieces.GetPieceSize(); ++id)
    processor->segmenter.add(pieces.IdToPiece(id), pieces.GetScore(id));
  processor->segmenter.set_unknown(pieces.unk_id());
  const JsonConfig config = load_tokenizer_config(folder);
  tokenizer.max_length_ = model_max_length(config, 0);

  const auto require = [&](const char* key, const char* absent) {
    const std::string token = special_token(config, key, absent);
    const std::int32_t id = pieces.PieceToId(token);
    if (pieces.IdToPiece(id) != token) throw FileError(fmt::format("{}: has no piece '{}'", file.string(), token));
    tokenizer.specials_.push_back(token);
    tokenizer.special_ids_.push_back(id);
    return id;
  };
  tokenizer.end_ = require("eos_token", "</s>");
  tokenizer.padding_ = require("pad_token", "<pad>");
  require("unk_token", "<unk>");
  // The sentinels stand behind the pieces, the last one first.
  const std::int64_t extra = config.integer("extra_ids", 100, 0, 10'000);
  for (std::int64_t i = 0; i < extra; ++i) {
    tokenizer.specials_.push_back(fmt::format("<extra_id_{}>", i));
    tokenizer.special_ids_.push_back(static_cast<std::int32_t>(pieces.GetPieceSize() + extra - 1 - i));
  }
  tokenizer.processor_ = std::move(processor);
  return tokenizer;
}

std::int32_t T5Tokenizer::largest_id() const { return processor_->pieces.GetPieceSize() - 1; }

T5Tokenizer::Encoding T5Tokenizer::encode(std::string_view text, std::int64_t length) const {
  if (length < 1) throw InvalidArgument(fmt::format("t5 tokenizer: length {} is given; allowed is 1 and more", length));
  std::vector<std::int32_t> ids;
  for (const TextSpan& span : split_special_tokens(text, specials_)) {
    if (span.is_special) {
      const auto index = std::find(specials_.begin(), specials_.end(), span.text) - specials_.begin();
      ids.push_back(special_ids_[static_cast<std::size_t>(index)]);
      continue;
    }
    processor_->segmenter.segment(mark_words(processor_->charsmap.normalize(span.text)), ids);
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
