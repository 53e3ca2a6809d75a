// Checksums of files that Rondo writes for itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace rondo {

/// XXH3 with 64 bits (https://xxhash.com): against damage, not against attackers.
std::uint64_t checksum(std::span<const std::byte> bytes);

}  // namespace rondo
