// Tokens that stand beside a tokenizer's vocabulary: special ones, T5's sentinels, placeholders of textual inversion.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/json_config.h"

namespace rondo {

/// One added token, with the settings of the tokenizers library's AddedToken.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  // only where no letter, digit or underscore touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // is looked for in the normalised text, else in the text as given
};

/// A part of a prompt: plain text, or one added token.
struct TextSpan {
  std::string text;
  std::optional<std::int32_t> id;  // set for an added token
};

/// Finds tokens in text, the longest first where two begin at one place.
class AddedTokens {
 public:
  using Normalize = std::function<std::string(std::string_view text)>;

  /// Adds a token that is not known yet. Throws FileError, naming `source`, for an empty one, for one of more than a
  /// kilobyte, and for one that is known under another id.
  void add(const AddedToken& token, const std::string& source) { add(token, token.content, source); }
  /// Adds the tokens that a folder declares: tokenizer_config.json's added_tokens_decoder (`config`), tokenizer.json's
  /// added_tokens and added_tokens.json; a token that several declare is taken as the first of them says. Those that
  /// are looked for in normalised text are normalised themselves. Throws FileError.
  void read(const std::filesystem::path& folder, const JsonConfig& config, const Normalize& normalize);

  bool contains(const std::string& content) const { return id_of_content_.contains(content); }
  /// -1 without tokens.
  std::int32_t largest_id() const { return largest_id_; }

  /// Cuts out the tokens that are looked for in the text as given, or (`normalized`) those in normalised text.
  std::vector<TextSpan> split(std::string_view text, bool normalized) const;

 private:
  /// `pattern` is what is looked for; of two tokens with one pattern the first is found, of one without none.
  void add(const AddedToken& token, const std::string& pattern, const std::string& source);
  const AddedToken* longest_at(std::string_view text, std::size_t at, bool normalized) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, std::int32_t> id_of_content_;
  std::unordered_map<char, std::vector<std::size_t>> by_first_byte_;
  std::int32_t largest_id_ = -1;
};

}  // namespace rondo
