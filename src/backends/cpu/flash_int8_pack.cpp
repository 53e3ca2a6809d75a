#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/flash_int8-inl.h"
#include "backends/cpu/flash_int8.h"
#include "backends/cpu/simd_head_rows.h"

namespace rondo::cpu {

std::size_t flash_int8_block_bytes(std::int64_t head_dim, std::int64_t value_dim) {
  return static_cast<std::size_t>(PackedInt8(nullptr, head_dim, value_dim).bytes);
}

std::size_t flash_int8_scratch_bytes(std::int64_t head_dim, std::int64_t value_dim) {
  return static_cast<std::size_t>(Int8Scratch(nullptr, head_dim, value_dim).bytes);
}

void flash_int8_pack(const FlashHeads& heads, std::int64_t key, int query_zero, std::byte* target) {
  const PackedInt8 packed(target, heads.head_dim, heads.value_dim);
  const std::int64_t count = std::min(kKeysOfBlock, heads.keys - key);
  std::fill_n(packed.keys, kKeysOfBlock * packed.width, std::int8_t{0});
  std::fill_n(packed.key_scales, kKeysOfBlock, 0.0F);
  quantize_int8_rows(key_rows(heads), key, count, kInt8Limit, packed.keys, packed.width, packed.key_scales);
  for (std::int64_t j = 0; j < kKeysOfBlock; ++j) {
    std::int32_t sum = 0;
    for (std::int64_t d = 0; d < packed.width; ++d) sum += packed.keys[j * packed.width + d];
    packed.zeros[j] = -query_zero * sum;
  }
  std::fill_n(packed.values, kKeysOfBlock * packed.value_width, std::int8_t{0});
  std::fill_n(packed.value_scales, packed.value_width, 0.0F);
  quantize_int8_columns(value_rows(heads), key, count, packed.values, packed.value_width, packed.value_scales);
}

void flash_int8_load_queries(const FlashHeads& heads, std::int64_t head, std::int64_t first, std::int64_t count,
                             const Int8Block& block, std::byte* scratch) {
  constexpr float kLog2E = 1.44269504088896340736F;
  constexpr float kTiny = std::numeric_limits<float>::min();
  const Int8Scratch s(scratch, heads.head_dim, heads.value_dim);
  const float scale = (heads.scale == 0 ? kTiny : std::abs(heads.scale)) * kLog2E;
  std::fill_n(s.narrow, s.width * block.queries, std::int8_t{0});
  std::fill_n(s.factor, block.queries, 0.0F);
  // A negative scale turns the queries around, so that the largest score is also the largest product.
  quantize_int8_rows(query_rows(heads, head), first, count, heads.scale < 0 ? -block.limit : block.limit, s.narrow,
                     s.width, s.factor);
  // Four bytes at once: 128 is added by their highest bits, and what is too much taken back, without a borrow.
  const std::uint32_t too_much = 0x01010101U * static_cast<std::uint32_t>(128 - block.zero);
  for (std::int64_t i = 0; i < block.queries; ++i) {
    for (std::int64_t d = 0; d < s.width; d += kInt8Group) {
      std::uint32_t group = 0;
      std::memcpy(&group, s.narrow + i * s.width + d, sizeof group);
      group = (group ^ 0x80808080U) - too_much;
      std::memcpy(s.queries + (d / kInt8Group * block.queries + i) * kInt8Group, &group, sizeof group);
    }
    // A tiny factor in place of 0 keeps hidden scores at -infinity.
    const float factor = s.factor[i] * scale;
    s.factor[i] = factor < kTiny ? kTiny : factor;
  }
  std::fill_n(s.sums, s.value_width * block.queries, 0.0F);
  std::fill_n(s.center, block.queries, -std::numeric_limits<float>::infinity());
  std::fill_n(s.total, block.queries, 0.0F);
  std::fill_n(s.used, block.queries, 0.0F);
}

}  // namespace rondo::cpu
