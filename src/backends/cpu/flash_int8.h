// Flash attention whose operands become 8-bit integers while it runs, on VNNI: as flash_attention.h. How they are
// quantised stands in attention/int8_attention.h.
#pragma once

#include "backends/cpu/flash_attention.h"

namespace rondo::cpu {

constexpr std::int64_t kFlashInt8BlockQueries = 32;
constexpr std::int64_t kFlashInt8WidestHead = 512;

/// Bytes of one packed block of keys and values, kKeysOfBlock of them.
std::size_t flash_int8_block_bytes(std::int64_t head_dim, std::int64_t value_dim);

/// Quantises the block of keys and values that begins at `key` into `target`. Keys are multiplied by `signs`
/// [head_dim] and turned, unless it is null.
void flash_int8_pack(const FlashHeads& heads, const float* signs, std::int64_t key, std::byte* target);

/// Scratch of one call, in bytes.
std::size_t flash_int8_scratch_bytes(std::int64_t head_dim, std::int64_t value_dim);

/// Blocks [first, last) of queries, counted over all heads of the group. `packed` holds every block of the group's keys
/// and values, one behind the other; `signs` as it was packed with. Needs AVX-512 VNNI.
void flash_int8(const FlashHeads& heads, const float* signs, const std::byte* packed, std::int64_t first,
                std::int64_t last, std::byte* scratch);

}  // namespace rondo::cpu
