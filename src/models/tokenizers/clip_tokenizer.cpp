#include "models/tokenizers/clip_tokenizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <queue>
#include <sstream>

#include "core/text.h"
#include "models/tokenizers/tokenizer_config.h"
#include "rondo/error.h"

namespace rondo {
namespace {

using nlohmann::json;

constexpr std::string_view kEndOfWord = "</w>";

std::string to_utf8(std::int32_t code) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t size = utf8proc_encode_char(code, bytes.data());
  return {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(size)};
}

/// GPT-2's alphabet: each byte as a printable character.
const std::array<std::string, 256>& byte_alphabet() {
  static const std::array<std::string, 256> alphabet = [] {
    std::array<std::string, 256> result;
    std::int32_t next = 256;
    for (std::int32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      result[static_cast<std::size_t>(byte)] = to_utf8(printable ? byte : next++);
    }
    return result;
  }();
  return alphabet;
}

enum class CharacterClass : std::uint8_t { letter, number, space, other };

struct Character {
  std::int32_t code;
  CharacterClass kind;
};

CharacterClass classify(std::int32_t code) {
  if (is_whitespace(code)) return CharacterClass::space;
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CharacterClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CharacterClass::number;
    default: return CharacterClass::other;
  }
}

/// NFC, then lower case one character at a time (as the field's tokenizer does: no final sigma, dotted I becomes two).
std::string normalize(std::string_view text) {
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  if (size < 0) throw InvalidArgument("prompt: is not valid UTF-8");
  std::string lower;
  constexpr std::int32_t kDottedCapitalI = 0x130;
  for (utf8proc_ssize_t i = 0; i < size;) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t used = utf8proc_iterate(composed + i, size - i, &code);
    if (used <= 0) throw InvalidArgument("prompt: is not valid UTF-8");
    i += used;
    lower += code == kDottedCapitalI ? "i\xcc\x87" : to_utf8(utf8proc_tolower(code));
  }
  return lower;
}

std::vector<Character> characters_of(std::string_view text) {
  std::vector<Character> characters;
  while (!text.empty()) {
    const Utf8Character next = first_character(text);
    characters.push_back({next.code, classify(next.code)});
    text.remove_prefix(next.bytes);
  }
  return characters;
}

bool matches(const std::vector<Character>& text, std::size_t at, std::string_view ascii) {
  if (text.size() - at < ascii.size()) return false;
  for (std::size_t i = 0; i < ascii.size(); ++i) {
    if (text[at + i].code != ascii[i]) return false;
  }
  return true;
}

struct WordRange {
  std::size_t begin;
  std::size_t end;
};

/// The words of a text, as CLIP's regular expression cuts it:
/// <|startoftext|>|<|endoftext|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
/// The marks can only stand here in another spelling (their own was cut out before lower-casing); the byte-level stage
/// then cuts them once more, into "<|", the letters and "|>".
std::vector<WordRange> cut_words(const std::vector<Character>& text) {
  std::vector<WordRange> words;
  const auto match_any = [&](std::size_t at, std::initializer_list<std::string_view> candidates) -> std::size_t {
    for (const std::string_view candidate : candidates) {
      if (matches(text, at, candidate)) return candidate.size();
    }
    return 0;
  };
  for (std::size_t at = 0; at < text.size();) {
    if (text[at].kind == CharacterClass::space) {
      ++at;
      continue;
    }
    if (const std::size_t mark = match_any(at, {"<|startoftext|>", "<|endoftext|>"}); mark > 0) {
      words.insert(words.end(), {{at, at + 2}, {at + 2, at + mark - 2}, {at + mark - 2, at + mark}});
      at += mark;
      continue;
    }
    std::size_t end = at + match_any(at, {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"});
    if (end == at && text[at].kind == CharacterClass::number) end = at + 1;
    if (end == at) {
      while (end < text.size() && text[end].kind == text[at].kind) ++end;
    }
    words.push_back({at, end});
    at = end;
  }
  return words;
}

}  // namespace

ClipTokenizer ClipTokenizer::load(const std::filesystem::path& folder) {
  ClipTokenizer tokenizer;
  tokenizer.read_vocabulary(folder);
  const JsonConfig config = load_tokenizer_config(folder);
  tokenizer.max_length_ = model_max_length(config, 77);
  tokenizer.added_.read(folder, config, normalize);
  const auto special = [&](const char* key, const char* absent) {
    const std::string token = special_token(config, key, absent);
    const std::int32_t id = tokenizer.require_token(token, config.source());
    tokenizer.added_.add({token, id}, config.source());
    return id;
  };
  tokenizer.start_ = special("bos_token", "<|startoftext|>");
  tokenizer.end_ = special("eos_token", "<|endoftext|>");
  tokenizer.unknown_ = special("unk_token", "<|endoftext|>");
  tokenizer.padding_ = special("pad_token", "<|endoftext|>");
  tokenizer.largest_id_ = std::max(tokenizer.largest_id_, tokenizer.added_.largest_id());
  return tokenizer;
}

void ClipTokenizer::read_vocabulary(const std::filesystem::path& folder) {
  const std::filesystem::path vocabulary_file = folder / "vocab.json";
  const std::filesystem::path merges_file = folder / "merges.txt";
  const std::filesystem::path both_file = folder / "tokenizer.json";
  const bool separate = std::filesystem::exists(vocabulary_file) || !std::filesystem::exists(both_file);
  const std::string source = (separate ? vocabulary_file : both_file).string();

  json parsed = parse_json(read_text_file(source), source);
  if (!separate) {
    const auto model = parsed.is_object() ? parsed.find("model") : parsed.end();
    if (model == parsed.end() || !model->is_object() || model->value("type", json("BPE")) != "BPE" ||
        !model->contains("vocab") || !model->contains("merges")) {
      throw FileError(fmt::format("{}: holds no BPE model; save the tokenizer with vocab.json and merges.txt", source));
    }
    parsed = std::move(*model);
  }
  const json& vocabulary = separate ? parsed : parsed["vocab"];
  if (!vocabulary.is_object() || vocabulary.empty())
    throw FileError(fmt::format("{}: the vocabulary is no JSON object of tokens", source));
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > 10'000'000) {
      throw FileError(fmt::format("{}: token '{}' has the id {}; allowed is 0 to 10000000", source, printable(token),
                                  printable(id.dump())));
    }
    const auto value = id.get<std::int32_t>();
    vocabulary_.emplace(token, value);
    largest_id_ = std::max(largest_id_, value);
  }

  if (separate) {
    std::istringstream lines(read_text_file(merges_file));
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty() && !line.starts_with("#version")) add_merge(line, merges_file.string());
    }
    return;
  }
  for (const json& merge : parsed["merges"]) {
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (!pair && !merge.is_string()) throw FileError(fmt::format("{}: a merge is no pair of tokens", source));
    add_merge(pair ? merge[0].get<std::string>() + " " + merge[1].get<std::string>() : merge.get<std::string>(),
              source);
  }
}

void ClipTokenizer::add_merge(const std::string& line, const std::string& source) {
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || space == 0 || space + 1 == line.size()) {
    throw FileError(fmt::format("{}: '{}' is no merge of two tokens", source, printable(line)));
  }
  const std::string left = line.substr(0, space);
  const std::string right = line.substr(space + 1);
  const auto key = (static_cast<std::uint64_t>(require_token(left, source)) << 32) |
                   static_cast<std::uint64_t>(require_token(right, source));
  const Merge merge{static_cast<std::int32_t>(merges_.size()), require_token(left + right, source)};
  merges_.emplace(key, merge);
}

std::int32_t ClipTokenizer::require_token(const std::string& token, const std::string& source) const {
  const auto found = vocabulary_.find(token);
  if (found == vocabulary_.end()) {
    throw FileError(fmt::format("{}: token '{}' is not in the vocabulary", source, printable(token)));
  }
  return found->second;
}

void ClipTokenizer::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  // Symbols form a linked list; a queue holds the merges that are possible, best rank first, leftmost first among
  // equals. A word of n bytes takes n log n, so that a prompt without spaces cannot stall.
  struct Symbol {
    std::int32_t id;
    std::int32_t previous;
    std::int32_t next;
  };
  struct Candidate {
    std::int32_t rank;
    std::int32_t left;
    std::int32_t left_id;
    std::int32_t right_id;
    std::int32_t result;
    bool operator>(const Candidate& other) const { return std::pair(rank, left) > std::pair(other.rank, other.left); }
  };
  std::vector<Symbol> symbols;
  for (std::size_t i = 0; i < word.size(); ++i) {
    std::string token = byte_alphabet()[static_cast<unsigned char>(word[i])];
    if (i + 1 == word.size()) token += kEndOfWord;
    const auto found = vocabulary_.find(token);
    const auto index = static_cast<std::int32_t>(i);
    symbols.push_back(
        {found == vocabulary_.end() ? unknown_ : found->second, index - 1, i + 1 == word.size() ? -1 : index + 1});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto at = [&](std::int32_t index) -> Symbol& { return symbols[static_cast<std::size_t>(index)]; };
  const auto consider = [&](std::int32_t left) {
    if (left < 0 || at(left).next < 0) return;
    const std::int32_t left_id = at(left).id;
    const std::int32_t right_id = at(at(left).next).id;
    const auto merge = merges_.find((static_cast<std::uint64_t>(left_id) << 32) | static_cast<std::uint64_t>(right_id));
    if (merge != merges_.end()) queue.push({merge->second.rank, left, left_id, right_id, merge->second.result});
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  constexpr std::int32_t kGone = -2;
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = at(best.left);
    if (left.next < 0 || left.id != best.left_id || at(left.next).id != best.right_id) continue;  // changed meanwhile
    Symbol& right = at(left.next);
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    right.next = kGone;
    if (left.next >= 0) at(left.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (std::int32_t i = 0; i >= 0 && !symbols.empty(); i = at(i).next) ids.push_back(at(i).id);
}

void ClipTokenizer::encode_plain(std::string_view text, std::vector<std::int32_t>& ids) const {
  const std::vector<Character> characters = characters_of(text);
  for (const WordRange& range : cut_words(characters)) {
    std::string word;
    for (std::size_t i = range.begin; i < range.end; ++i) word += to_utf8(characters[i].code);
    encode_word(word, ids);
  }
}

ClipTokenizer::Encoding ClipTokenizer::encode(std::string_view text, std::int64_t length) const {
  if (length < 2)
    throw InvalidArgument(fmt::format("clip tokenizer: length {} is given; allowed is 2 and more", length));
  std::vector<std::int32_t> ids;
  for (const TextSpan& given : added_.split(text, false)) {
    if (given.id) {
      ids.push_back(*given.id);
      continue;
    }
    for (const TextSpan& span : added_.split(normalize(given.text), true)) {
      if (span.id) {
        ids.push_back(*span.id);
      } else {
        encode_plain(span.text, ids);
      }
    }
  }
  Encoding encoding;
  const auto room = static_cast<std::size_t>(length - 2);
  encoding.truncated = ids.size() > room;
  ids.resize(std::min(ids.size(), room));
  encoding.ids.push_back(start_);
  encoding.ids.insert(encoding.ids.end(), ids.begin(), ids.end());
  encoding.ids.push_back(end_);
  encoding.ids.resize(static_cast<std::size_t>(length), padding_);
  return encoding;
}

}  // namespace rondo
