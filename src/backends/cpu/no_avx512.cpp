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

FlashInt8 flash_int8_vnni() { return flash_int8_simd(); }

double bf16_dot_products(std::int64_t /*rounds*/) { return 0; }
double amx_products(std::int64_t /*rounds*/) { return 0; }

bool request_amx() { return false; }

}  // namespace rondo::cpu
