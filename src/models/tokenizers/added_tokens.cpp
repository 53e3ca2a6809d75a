#include "models/tokenizers/added_tokens.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

using nlohmann::json;

constexpr std::int64_t kLargestId = 10'000'000;
/// These bound the time that a stranger's tokens and prompt can take together.
constexpr std::size_t kMostTokens = 10'000;
constexpr std::size_t kLongestToken = 1024;

bool is_word_character(std::int32_t code) {
  if (code == '_') return true;
  const utf8proc_category_t category = utf8proc_category(code);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO;  // letters, marks and numbers
}

std::size_t last_character_begin(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0U) == 0x80U) --begin;
  return begin;
}

bool touches_word(std::string_view before, std::string_view behind) {
  const bool left =
      !before.empty() && is_word_character(first_character(before.substr(last_character_begin(before))).code);
  const bool right = !behind.empty() && is_word_character(first_character(behind).code);
  return left || right;
}

void strip_end(std::string& text) {
  while (!text.empty()) {
    const std::size_t begin = last_character_begin(text);
    if (!is_whitespace(first_character(std::string_view(text).substr(begin)).code)) return;
    text.resize(begin);
  }
}

std::size_t whitespace_bytes(std::string_view text) {
  std::size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Character next = first_character(text.substr(bytes));
    if (!is_whitespace(next.code)) break;
    bytes += next.bytes;
  }
  return bytes;
}

AddedToken parse_token(const JsonConfig& entry, std::int32_t id) {
  AddedToken token{entry.text("content", std::nullopt), id};
  token.single_word = entry.boolean("single_word", false);
  token.lstrip = entry.boolean("lstrip", false);
  token.rstrip = entry.boolean("rstrip", false);
  token.normalized = entry.boolean("normalized", !entry.boolean("special", false));
  return token;
}

std::int32_t parse_id(const std::string& text, const JsonConfig& config, std::string_view key) {
  const bool digits = !text.empty() && text.size() <= 8 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || std::stoll(text) > kLargestId)
    config.refuse(key, fmt::format("allowed are ids from 0 to {}", kLargestId));
  return static_cast<std::int32_t>(std::stoll(text));
}

}  // namespace

void AddedTokens::add(const AddedToken& token, const std::string& pattern, const std::string& source) {
  if (token.content.empty()) throw FileError(fmt::format("{}: adds a token without text", source));
  if (token.content.size() > kLongestToken) {
    throw FileError(
        fmt::format("{}: adds a token of {} bytes; allowed are up to {}", source, token.content.size(), kLongestToken));
  }
  if (const auto known = id_of_content_.find(token.content); known != id_of_content_.end()) {
    if (known->second == token.id) return;
    throw FileError(fmt::format("{}: token '{}' has the ids {} and {}; allowed is one", source,
                                printable(token.content), known->second, token.id));
  }
  if (tokens_.size() == kMostTokens) throw FileError(fmt::format("{}: adds more than {} tokens", source, kMostTokens));
  id_of_content_.emplace(token.content, token.id);
  largest_id_ = std::max(largest_id_, token.id);
  if (pattern.empty()) return;
  by_first_byte_[pattern.front()].push_back(tokens_.size());
  tokens_.push_back(token);
  tokens_.back().content = pattern;
}

void AddedTokens::read(const std::filesystem::path& folder, const JsonConfig& config, const Normalize& normalize) {
  const auto add_normalized = [&](const AddedToken& token, const std::string& source) {
    add(token, token.normalized ? normalize(token.content) : token.content, source);
  };
  constexpr const char* kDecoder = "added_tokens_decoder";
  if (config.has(kDecoder)) {
    const json& decoder = config.object().at(kDecoder);
    if (!decoder.is_object()) config.refuse(kDecoder, "allowed is an object of id: token");
    for (const auto& [id, entry] : decoder.items()) {
      const std::string where = fmt::format("{}: {}: '{}'", config.source(), kDecoder, printable(id));
      add_normalized(parse_token(JsonConfig(entry, where), parse_id(id, config, kDecoder)), where);
    }
  }
  const std::filesystem::path whole = folder / "tokenizer.json";
  if (std::filesystem::exists(whole)) {
    const JsonConfig file = JsonConfig::load(whole);
    constexpr const char* kTokens = "added_tokens";
    const json none = json::array();
    const json& tokens = file.has(kTokens) ? file.object().at(kTokens) : none;
    if (!tokens.is_array()) file.refuse(kTokens, "allowed is a list of tokens");
    for (const json& entry : tokens) {
      const JsonConfig token(entry, fmt::format("{}: {}", file.source(), kTokens));
      add_normalized(parse_token(token, static_cast<std::int32_t>(token.integer("id", std::nullopt, 0, kLargestId))),
                     file.source());
    }
  }
  const std::filesystem::path ids = folder / "added_tokens.json";
  if (std::filesystem::exists(ids)) {
    const JsonConfig file = JsonConfig::load(ids);
    for (const auto& [content, id] : file.object().items()) {
      AddedToken token{content, static_cast<std::int32_t>(file.integer(content, std::nullopt, 0, kLargestId))};
      token.normalized = true;
      add_normalized(token, file.source());
    }
  }
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t at, bool normalized) const {
  const auto candidates = by_first_byte_.find(text[at]);
  if (candidates == by_first_byte_.end()) return nullptr;
  const AddedToken* longest = nullptr;
  for (const std::size_t index : candidates->second) {
    const AddedToken& token = tokens_[index];
    const std::string_view rest = text.substr(at);
    if (token.normalized != normalized || !rest.starts_with(token.content)) continue;
    if (longest != nullptr && token.content.size() <= longest->content.size()) continue;
    if (token.single_word && touches_word(text.substr(0, at), rest.substr(token.content.size()))) continue;
    longest = &token;
  }
  return longest;
}

std::vector<TextSpan> AddedTokens::split(std::string_view text, bool normalized) const {
  std::vector<TextSpan> spans;
  std::string plain;
  const auto flush = [&] {
    if (!plain.empty()) spans.push_back({std::exchange(plain, ""), std::nullopt});
  };
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* const token = longest_at(text, at, normalized);
    if (token == nullptr) {
      plain += text[at++];
      continue;
    }
    if (token->lstrip) strip_end(plain);
    flush();
    spans.push_back({token->content, token->id});
    at += token->content.size();
    if (token->rstrip) at += whitespace_bytes(text.substr(at));
  }
  flush();
  return spans;
}

}  // namespace rondo
