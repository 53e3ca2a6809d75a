// The normalisation table of a SentencePiece model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rondo {

/// A trie from UTF-8 text to its replacement. The default one is empty: it changes nothing.
class Charsmap {
 public:
  /// nullopt when a step through the trie could leave it, or a value points at text that does not end.
  static std::optional<Charsmap> parse(std::string_view bytes);

  /// Replaces as the tokenizers library does, not as SentencePiece (which always takes the longest match): a grapheme
  /// of less than 6 bytes gives way to the replacement of its shortest known prefix, any other character by character.
  std::string normalize(std::string_view text) const;

 private:
  std::optional<std::string_view> replacement(std::string_view key) const;

  std::vector<std::uint32_t> units_;  // a double array of Darts-clone
  std::string replacements_;          // each ended by a zero
};

/// The table with which a serialized SentencePiece ModelProto normalises. nullopt when the bytes are no protocol buffer
/// or any table in them is unsound: SentencePiece trusts them.
std::optional<Charsmap> read_charsmap(std::string_view model);

}  // namespace rondo
