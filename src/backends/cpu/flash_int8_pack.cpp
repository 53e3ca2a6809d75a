#include <algorithm>

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

}  // namespace rondo::cpu
