#include "models/tokenizers/unigram_segmenter.h"

#include <algorithm>

namespace rondo {
namespace {

constexpr double kUnknownPenalty = 10.0;

std::size_t character_bytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

}  // namespace

void UnigramSegmenter::add(const std::string& piece, double score) {
  pieces_.emplace(piece, Piece{size_++, score});
  longest_ = std::max(longest_, piece.size());
  least_score_ = std::min(least_score_, score);
}

std::optional<std::int32_t> UnigramSegmenter::find(const std::string& piece) const {
  const auto found = pieces_.find(piece);
  return found == pieces_.end() ? std::nullopt : std::optional(found->second.id);
}

void UnigramSegmenter::segment(std::string_view text, std::vector<std::int32_t>& ids) const {
  while (!text.empty()) {
    const std::size_t next = std::min(text.find(kWordStart, 1), text.size());
    segment_word(text.substr(0, next), ids);
    text.remove_prefix(next);
  }
}

void UnigramSegmenter::segment_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  struct Cut {
    double score = 0;
    std::int32_t id = 0;
    std::size_t begin = std::string_view::npos;
  };
  std::vector<Cut> best(word.size() + 1);  // of all cuts that end here
  const auto offer = [&](std::size_t begin, std::size_t end, std::int32_t id, double score) {
    const double total = best[begin].score + score;
    if (best[end].begin == std::string_view::npos || total > best[end].score) best[end] = {total, id, begin};
  };
  for (std::size_t begin = 0; begin < word.size();) {
    const std::size_t character = std::min(character_bytes(word[begin]), word.size() - begin);
    bool has_character_piece = false;
    for (std::size_t size = 1; size <= std::min(longest_, word.size() - begin); ++size) {
      const auto piece = pieces_.find(std::string(word.substr(begin, size)));
      if (piece == pieces_.end()) continue;
      offer(begin, begin + size, piece->second.id, piece->second.score);
      has_character_piece = has_character_piece || size == character;
    }
    if (!has_character_piece) offer(begin, begin + character, unknown_, least_score_ - kUnknownPenalty);
    begin += character;
  }
  std::vector<std::int32_t> reversed;
  for (std::size_t end = word.size(); end > 0; end = best[end].begin) {
    const bool repeats_unknown = best[end].id == unknown_ && !reversed.empty() && reversed.back() == unknown_;
    if (!repeats_unknown) reversed.push_back(best[end].id);
  }
  ids.insert(ids.end(), reversed.rbegin(), reversed.rend());
}

}  // namespace rondo
