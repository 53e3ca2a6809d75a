// T5's tokenizer: a SentencePiece unigram model (Kudo and Richardson, 2018).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/added_tokens.h"

namespace rondo {

struct UnigramModel;

/// Text is valid UTF-8. Ids are those of transformers' T5Tokenizer, which is the tokenizers library: it normalises and
/// cuts otherwise than SentencePiece, whose library only reads the model here.
class T5Tokenizer {
 public:
  /// Reads spiece.model, or tokenizer.json where it is missing (transformers 5 writes that alone). Throws FileError.
  static T5Tokenizer load(const std::filesystem::path& folder);

  /// The model_max_length of the folder; `absent` where it says none.
  std::int64_t max_length(std::int64_t absent) const { return max_length_ == 0 ? absent : max_length_; }
  /// The largest id of a piece; those of added tokens may lie behind it.
  std::int32_t largest_id() const;

  struct Encoding {
    std::vector<std::int32_t> ids;  // exactly `length`: text, end, padding
    bool truncated = false;
  };
  Encoding encode(std::string_view text, std::int64_t length) const;

 private:
  std::shared_ptr<const UnigramModel> model_;
  AddedTokens added_;
  std::int32_t end_ = 1;
  std::int32_t padding_ = 0;
  std::int64_t max_length_ = 0;
};

}  // namespace rondo
