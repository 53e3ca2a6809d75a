#include "models/tokenizers/unigram_model.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base64.h"
#include "core/text.h"
#include "io/json_config.h"
#include "rondo/error.h"

namespace rondo {
namespace {

using nlohmann::json;

constexpr std::size_t kMostPieces = 10'000'000;

/// Adds a piece. A stranger's piece of any length would make every word's cut take cubic time.
void add_piece(UnigramModel& model, const std::string& piece, double score, const std::string& source) {
  constexpr std::size_t kLongestPiece = 1024;
  if (piece.size() > kLongestPiece) {
    throw FileError(
        fmt::format("{}: has a piece of {} bytes; allowed are up to {}", source, piece.size(), kLongestPiece));
  }
  model.segmenter.add(piece, score);
}

/// An object of the file under its key.
JsonConfig part_of(const JsonConfig& parent, const char* key) {
  const auto found = parent.object().find(key);
  if (found == parent.object().end() || !found->is_object()) parent.refuse(key, "allowed is an object");
  return {*found, fmt::format("{}: {}", parent.source(), key)};
}

/// The objects of a list under its key.
std::vector<JsonConfig> list_of(const JsonConfig& parent, const char* key) {
  const auto found = parent.object().find(key);
  if (found == parent.object().end() || !found->is_array()) parent.refuse(key, "allowed is a list");
  std::vector<JsonConfig> entries;
  for (const json& entry : *found) entries.emplace_back(entry, fmt::format("{}: {}", parent.source(), key));
  return entries;
}

/// A run of spaces as one: without effect, as words are cut at white space.
bool joins_spaces(const JsonConfig& step) {
  return step.text("type", "") == "Replace" && step.object().value("content", json()) == " " &&
         step.object().value("pattern", json()) == json{{"Regex", " {2,}"}};
}

void read_normalizer(const JsonConfig& step, Charsmap& charsmap) {
  const std::string type = step.text("type", std::nullopt);
  if (type == "Sequence") {
    for (const JsonConfig& inner : list_of(step, "normalizers")) read_normalizer(inner, charsmap);
    return;
  }
  if (joins_spaces(step)) return;
  if (type != "Precompiled") step.refuse("type", "allowed are Precompiled, and Replace of several spaces by one");
  const auto bytes = decode_base64(step.text("precompiled_charsmap", ""));
  auto map = bytes ? Charsmap::parse(*bytes) : std::nullopt;
  if (!map) throw FileError(fmt::format("{}: 'precompiled_charsmap' is no table of SentencePiece", step.source()));
  charsmap = std::move(*map);
}

/// Words between white space, each behind the mark.
void check_pre_tokenizer(const JsonConfig& step) {
  const char* const allowed = "allowed is a Sequence of WhitespaceSplit and Metaspace, as T5 has it";
  if (step.text("type", std::nullopt) != "Sequence") step.refuse("type", allowed);
  const std::vector<JsonConfig> steps = list_of(step, "pretokenizers");
  if (steps.size() != 2 || steps[0].text("type", "") != "WhitespaceSplit" || steps[1].text("type", "") != "Metaspace")
    step.refuse("pretokenizers", allowed);
  const JsonConfig& mark = steps[1];
  if (mark.text("replacement", std::nullopt) != UnigramSegmenter::kWordStart)
    mark.refuse("replacement", "allowed is U+2581");
  if (mark.text("prepend_scheme", "always") != "always") mark.refuse("prepend_scheme", "allowed is always");
}

void check_post_processor(const JsonConfig& step) {
  const char* const allowed = "allowed is TemplateProcessing that puts </s> behind the text";
  if (step.text("type", std::nullopt) != "TemplateProcessing") step.refuse("type", allowed);
  const std::vector<JsonConfig> single = list_of(step, "single");
  const bool fits = single.size() == 2 && single[0].has("Sequence") && single[1].has("SpecialToken");
  if (!fits) step.refuse("single", allowed);
}

}  // namespace

UnigramModel read_sentencepiece(const std::filesystem::path& file) {
  const std::string bytes = read_text_file(file);
  sentencepiece::SentencePieceProcessor pieces;
  auto charsmap = read_charsmap(bytes);
  if (!charsmap || !pieces.LoadFromSerializedProto(bytes).ok() || pieces.GetPieceSize() <= 0)
    throw FileError(fmt::format("{}: is no SentencePiece model", file.string()));
  UnigramModel model;
  model.charsmap = std::move(*charsmap);
  for (int id = 0; id < pieces.GetPieceSize(); ++id)
    add_piece(model, pieces.IdToPiece(id), static_cast<double>(pieces.GetScore(id)), file.string());
  model.segmenter.set_unknown(pieces.unk_id());
  return model;
}

UnigramModel read_unigram_json(const std::filesystem::path& path) {
  const JsonConfig file = JsonConfig::load(path);
  const JsonConfig stored = part_of(file, "model");
  if (stored.text("type", std::nullopt) != "Unigram") stored.refuse("type", "allowed is Unigram");
  if (stored.boolean("byte_fallback", false)) stored.refuse("byte_fallback", "allowed is false");
  const auto vocabulary = stored.object().find("vocab");
  if (vocabulary == stored.object().end() || !vocabulary->is_array() || vocabulary->empty() ||
      vocabulary->size() > kMostPieces)
    throw FileError(fmt::format("{}: 'vocab' is no list of pieces", stored.source()));
  UnigramModel model;
  for (const json& entry : *vocabulary) {
    const bool sound = entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_number() &&
                       std::isfinite(entry[1].get<double>());
    if (!sound) {
      throw FileError(fmt::format("{}: vocab: {} is no pair of a piece and its score", stored.source(),
                                  printable(entry.dump(-1, ' ', false, json::error_handler_t::replace))));
    }
    add_piece(model, entry[0].get<std::string>(), entry[1].get<double>(), stored.source());
  }
  const auto last = static_cast<std::int64_t>(vocabulary->size()) - 1;
  model.segmenter.set_unknown(static_cast<std::int32_t>(stored.integer("unk_id", std::nullopt, 0, last)));
  if (file.has("normalizer")) read_normalizer(part_of(file, "normalizer"), model.charsmap);
  check_pre_tokenizer(part_of(file, "pre_tokenizer"));
  check_post_processor(part_of(file, "post_processor"));
  return model;
}

}  // namespace rondo
