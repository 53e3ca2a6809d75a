#include "models/tokenizers/charsmap.h"

#include <utf8proc.h>

#include <cstring>
#include <functional>

#include "core/text.h"

namespace rondo {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr std::uint64_t kNormalizerSpec = 3;
constexpr std::uint64_t kDenormalizerSpec = 5;
constexpr std::uint64_t kPrecompiledCharsmap = 2;

bool read_varint(std::string_view& bytes, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

/// Calls visit(field, content) for every length-delimited field of a message; false when the bytes are no message or
/// `visit` says so.
bool for_each_field(std::string_view bytes, const std::function<bool(std::uint64_t, std::string_view)>& visit) {
  enum : std::uint64_t { varint = 0, fixed64 = 1, delimited = 2, fixed32 = 5 };
  while (!bytes.empty()) {
    std::uint64_t tag = 0;
    if (!read_varint(bytes, tag)) return false;
    std::uint64_t size = 0;
    switch (tag & 7U) {
      case varint:
        if (!read_varint(bytes, size)) return false;
        size = 0;
        break;
      case fixed64: size = 8; break;
      case fixed32: size = 4; break;
      case delimited:
        if (!read_varint(bytes, size)) return false;
        break;
      default: return false;
    }
    if (size > bytes.size()) return false;
    if ((tag & 7U) == delimited && !visit(tag >> 3, bytes.substr(0, size))) return false;
    bytes.remove_prefix(size);
  }
  return true;
}

// A unit of the trie, by its bits.
bool is_value(std::uint32_t unit) { return (unit >> 31U) != 0; }  // no byte of a key leads to it
bool has_value(std::uint32_t unit) { return ((unit >> 8U) & 1U) != 0; }
std::uint32_t value_of(std::uint32_t unit) { return unit & 0x7fffffffU; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000ffU; }
std::uint64_t offset_of(std::uint32_t unit) {
  return static_cast<std::uint64_t>(unit >> 10U) << ((unit & (1U << 9U)) >> 6U);
}

std::size_t first_grapheme_bytes(std::string_view text) {
  Utf8Character last = first_character(text);
  std::size_t bytes = last.bytes;
  for (utf8proc_int32_t state = 0; bytes < text.size();) {
    const Utf8Character next = first_character(text.substr(bytes));
    if (utf8proc_grapheme_break_stateful(last.code, next.code, &state)) break;
    bytes += next.bytes;
    last = next;
  }
  return bytes;
}

}  // namespace

std::optional<Charsmap> Charsmap::parse(std::string_view bytes) {
  Charsmap map;
  if (bytes.empty()) return map;
  std::uint32_t trie_bytes = 0;
  if (bytes.size() <= sizeof trie_bytes) return std::nullopt;
  std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  bytes.remove_prefix(sizeof trie_bytes);
  if (trie_bytes == 0 || trie_bytes >= bytes.size() || trie_bytes % sizeof(std::uint32_t) != 0) return std::nullopt;
  map.replacements_ = bytes.substr(trie_bytes);
  if (map.replacements_.back() != '\0') return std::nullopt;
  map.units_.resize(trie_bytes / sizeof(std::uint32_t));
  std::memcpy(map.units_.data(), bytes.data(), trie_bytes);
  for (std::size_t i = 0; i < map.units_.size(); ++i) {
    const std::uint32_t unit = map.units_[i];
    if (is_value(unit)) continue;
    const std::uint64_t base = i ^ offset_of(unit);
    if ((base | 0xffU) >= map.units_.size()) return std::nullopt;
    if (has_value(unit) && value_of(map.units_[base]) >= map.replacements_.size()) return std::nullopt;
  }
  return map;
}

std::optional<std::string_view> Charsmap::replacement(std::string_view key) const {
  if (units_.empty() || is_value(units_[0])) return std::nullopt;
  std::uint64_t node = offset_of(units_[0]);
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    node ^= byte;
    const std::uint32_t unit = units_[node];
    if (label_of(unit) != byte) break;
    node ^= offset_of(unit);
    if (has_value(unit)) return std::string_view(replacements_.c_str() + value_of(units_[node]));
  }
  return std::nullopt;
}

std::string Charsmap::normalize(std::string_view text) const {
  constexpr std::size_t kWholeGrapheme = 6;
  std::string result;
  while (!text.empty()) {
    std::string_view grapheme = text.substr(0, first_grapheme_bytes(text));
    text.remove_prefix(grapheme.size());
    if (grapheme.size() < kWholeGrapheme) {
      if (const auto replaced = replacement(grapheme)) {
        result += *replaced;
        continue;
      }
    }
    while (!grapheme.empty()) {
      const std::string_view character = grapheme.substr(0, first_character(grapheme).bytes);
      grapheme.remove_prefix(character.size());
      result += replacement(character).value_or(character);
    }
  }
  return result;
}

std::optional<Charsmap> read_charsmap(std::string_view model) {
  Charsmap normalizer;
  const bool sound = for_each_field(model, [&](std::uint64_t field, std::string_view content) {
    if (field != kNormalizerSpec && field != kDenormalizerSpec) return true;
    return for_each_field(content, [&](std::uint64_t inner, std::string_view bytes) {
      if (inner != kPrecompiledCharsmap) return true;
      auto map = Charsmap::parse(bytes);
      if (map && field == kNormalizerSpec) normalizer = std::move(*map);
      return map.has_value();
    });
  });
  return sound ? std::optional(std::move(normalizer)) : std::nullopt;
}

}  // namespace rondo
