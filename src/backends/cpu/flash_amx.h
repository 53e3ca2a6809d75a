// Flash attention in bfloat16 on AMX tiles: as flash_attention.h, without masks.
#pragma once

#include "backends/cpu/flash_attention.h"

namespace rondo::cpu {

constexpr std::int64_t kFlashAmxBlockQueries = 32;

/// Asks the kernel for the right to use tiles, once a process. False when it refuses.
bool request_amx();

std::size_t flash_amx_scratch_bytes(std::int64_t head_dim, std::int64_t value_dim);

/// Blocks [first, last), at most kFlashChunk, counted over all heads of the group; bfloat16 only. Weights are rounded
/// to bfloat16 before they meet the values.
void flash_amx(const FlashHeads& heads, std::int64_t first, std::int64_t last, std::byte* scratch);

}  // namespace rondo::cpu
