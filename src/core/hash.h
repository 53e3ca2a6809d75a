// A hash that is the same in every build, for names of files.
#pragma once

#include <cstdint>
#include <string_view>

namespace rondo {

/// FNV-1a with 64 bits.
constexpr std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

}  // namespace rondo
