// In place of the files of AVX-512's levels, for processors that have none: their kernels are listed and never
// available.
#include "backends/cpu/flash_bf16.h"
#include "backends/cpu/flash_int8.h"
#include "rondo/error.h"

namespace rondo::cpu {

std::size_t flash_bf16_scratch_bytes(const FlashTiling& /*tiling*/, std::int64_t /*head_dim*/,
                                     std::int64_t /*value_dim*/) {
  return 0;
}

void flash_bf16(const FlashHeads& /*heads*/, const FlashTiling& /*tiling*/, std::int64_t /*first*/,
                std::int64_t /*last*/, std::byte* /*scratch*/) {
  throw Unsupported("attention: this build has no AVX-512");
}

void flash_amx(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
               std::byte* scratch) {
  flash_bf16(heads, tiling, first, last, scratch);
}

std::size_t flash_int8_block_bytes(std::int64_t /*head_dim*/, std::int64_t /*value_dim*/) { return 0; }
std::size_t flash_int8_scratch_bytes(std::int64_t /*head_dim*/, std::int64_t /*value_dim*/) { return 0; }

void flash_int8_pack(const FlashHeads& /*heads*/, const float* /*signs*/, std::int64_t /*key*/, std::byte* /*target*/) {
  throw Unsupported("attention: this build has no AVX-512");
}

void flash_int8(const FlashHeads& heads, const float* signs, const std::byte* /*packed*/, std::int64_t /*first*/,
                std::int64_t /*last*/, std::byte* scratch) {
  flash_int8_pack(heads, signs, 0, scratch);
}

double bf16_dot_products(std::int64_t /*rounds*/) { return 0; }
double amx_products(std::int64_t /*rounds*/) { return 0; }

bool request_amx() { return false; }

}  // namespace rondo::cpu
