#include "models/tokenizers/charsmap_check.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

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

/// A map is a trie's size, its units (the double array of Darts-clone), and the replacements, each ended by a zero.
bool is_sound_charsmap(std::string_view map) {
  if (map.empty()) return true;
  std::uint32_t trie_bytes = 0;
  if (map.size() <= sizeof trie_bytes) return false;
  std::memcpy(&trie_bytes, map.data(), sizeof trie_bytes);
  map.remove_prefix(sizeof trie_bytes);
  if (trie_bytes == 0 || trie_bytes >= map.size() || trie_bytes % sizeof(std::uint32_t) != 0) return false;
  const std::string_view replacements = map.substr(trie_bytes);
  if (replacements.back() != '\0') return false;
  std::vector<std::uint32_t> units(trie_bytes / sizeof(std::uint32_t));
  std::memcpy(units.data(), map.data(), trie_bytes);
  for (std::size_t i = 0; i < units.size(); ++i) {
    const std::uint32_t unit = units[i];
    if ((unit >> 31U) != 0) continue;  // a value, which no byte of a key leads to
    const std::uint64_t offset = static_cast<std::uint64_t>(unit >> 10U) << ((unit & (1U << 9U)) >> 6U);
    const std::uint64_t base = i ^ offset;
    if ((base | 0xffU) >= units.size()) return false;
    const bool has_value = ((unit >> 8U) & 1U) != 0;
    if (has_value && (units[base] & 0x7fffffffU) >= replacements.size()) return false;
  }
  return true;
}

}  // namespace

bool has_sound_charsmaps(std::string_view model) {
  return for_each_field(model, [](std::uint64_t field, std::string_view content) {
    if (field != kNormalizerSpec && field != kDenormalizerSpec) return true;
    return for_each_field(content, [](std::uint64_t inner, std::string_view map) {
      return inner != kPrecompiledCharsmap || is_sound_charsmap(map);
    });
  });
}

}  // namespace rondo
