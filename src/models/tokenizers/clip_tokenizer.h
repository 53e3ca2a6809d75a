// CLIP's tokenizer: lower-cased byte-level byte-pair encoding with an end-of-word mark (Radford et al., 2021).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "models/tokenizers/added_tokens.h"

namespace rondo {

/// Throughout, text is valid UTF-8. Ids are those of transformers' CLIPTokenizer.
class ClipTokenizer {
 public:
  /// Reads vocab.json and merges.txt, or tokenizer.json where they are missing. Throws FileError.
  static ClipTokenizer load(const std::filesystem::path& folder);

  /// The model_max_length of the folder; 77 where it says none.
  std::int64_t max_length() const { return max_length_; }
  /// The largest id there is, for a check against the model's vocabulary.
  std::int32_t largest_id() const { return largest_id_; }

  struct Encoding {
    std::vector<std::int32_t> ids;  // exactly `length`: start, text, end, padding
    bool truncated = false;
  };
  Encoding encode(std::string_view text, std::int64_t length) const;

 private:
  struct Merge {
    std::int32_t rank;
    std::int32_t result;
  };

  void read_vocabulary(const std::filesystem::path& folder);
  void add_merge(const std::string& line, const std::string& source);
  std::int32_t require_token(const std::string& token, const std::string& source) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;
  /// Normalised text without added tokens.
  void encode_plain(std::string_view text, std::vector<std::int32_t>& ids) const;

  std::unordered_map<std::string, std::int32_t> vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left id and right id
  AddedTokens added_;
  std::int32_t start_ = 0;
  std::int32_t end_ = 0;
  std::int32_t unknown_ = 0;
  std::int32_t padding_ = 0;
  std::int32_t largest_id_ = 0;
  std::int64_t max_length_ = 77;
};

}  // namespace rondo
