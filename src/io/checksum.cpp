#include "io/checksum.h"

#define XXH_INLINE_ALL  // the header is all: no library to link
#include <xxhash.h>

namespace rondo {

std::uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace rondo
