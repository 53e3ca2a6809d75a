// The best cut of a text into the pieces of a unigram language model (Kudo, 2018), by Viterbi's algorithm.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rondo {

/// Scores are added in float64 and the first of equal cuts wins, as in the field's tokenizers library.
class UnigramSegmenter {
 public:
  /// Adds the piece whose id is the number of those before it.
  void add(const std::string& piece, double score);
  void set_unknown(std::int32_t id) { unknown_ = id; }
  std::int32_t size() const { return size_; }
  /// The piece's id; nothing where there is none.
  std::optional<std::int32_t> find(const std::string& piece) const;

  /// What stands for the space before a word.
  static constexpr std::string_view kWordStart = "\xe2\x96\x81";  // U+2581

  /// Appends the ids of text whose words start with kWordStart; they are cut one by one. A run of characters that no
  /// piece covers becomes one unknown id.
  void segment(std::string_view text, std::vector<std::int32_t>& ids) const;

 private:
  struct Piece {
    std::int32_t id;
    double score;
  };

  void segment_word(std::string_view word, std::vector<std::int32_t>& ids) const;

  std::unordered_map<std::string, Piece> pieces_;
  std::int32_t size_ = 0;
  std::size_t longest_ = 0;
  double least_score_ = 0;
  std::int32_t unknown_ = 0;
};

}  // namespace rondo
