// Flash attention in bfloat16 with native products: as flash_attention.h. Weights are rounded to
// bfloat16 before they meet the values.
#pragma once

#include "backends/cpu/flash_attention.h"

namespace rondo::cpu {

constexpr std::int64_t kFlashBf16BlockQueries = 32;

/// Scratch of one call, in bytes. tiling.key_block is a multiple of 32.
std::size_t flash_bf16_scratch_bytes(const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim);

/// Blocks [first, last), at most tiling.chunk, counted over all heads of the group. Operands are bfloat16, or f8_e4m3
/// with scales, head dims up to kE4m3Columns and a key block of kE4m3Keys: bfloat16 holds them exactly, and weights are
/// rounded to kE4m3Bits significant bits. Needs AVX-512 BF16.
void flash_bf16(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
                std::byte* scratch);

/// The same on AMX tiles, once request_amx() has granted them.
void flash_amx(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
               std::byte* scratch);

/// `rounds` of independent products that touch no memory: what the peak is measured with. Returns the operations done.
double bf16_dot_products(std::int64_t rounds);
double amx_products(std::int64_t rounds);

/// Asks the operating system for the right to use tiles. False when it refuses.
bool request_amx();

/// True where the CPU level has tiles and the system lets this process use them; asked once.
bool has_amx();

}  // namespace rondo::cpu
