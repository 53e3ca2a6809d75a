// Flash attention in bfloat16 with the dot products of AVX-512. Compiled for that level alone; called only where the
// CPU has it.
#include "backends/cpu/flash_bf16-inl.h"

// Budget at head dim 128 on Zen 4 (one dot product a cycle, 32 multiply-adds each): a vector of 16 scores takes 128 of
// them in the two products and about 10 cycles of softmax. 8 rows x 2 vectors of sums need 10 loads to 16 dot products.

namespace rondo::cpu {
namespace {

struct DotProducts {
  struct Scope {
    Scope() {}  // nothing to set up; not trivial, so that the compiler sees it used
  };
  static constexpr bool kOverlaps = false;

  static void multiply(bool accumulate, const Bits* a, std::int64_t a_half, const Bits* b, std::int64_t b_half,
                       std::int64_t tiles, float* c) {
    constexpr std::int64_t kRows = 8;
    for (std::int64_t row = 0; row < 32; row += kRows) {
      const Bits* rows = a + row / 16 * a_half + row % 16 * 32;
      float* target = c + row * kBlock;
      __m512 sums[kRows][2];
      for (std::int64_t r = 0; r < kRows; ++r) {
        for (std::int64_t v = 0; v < 2; ++v)
          sums[r][v] = accumulate ? _mm512_load_ps(target + r * kBlock + v * 16) : _mm512_setzero_ps();
      }
      for (std::int64_t t = 0; t < tiles; ++t) {
        for (std::int64_t pair = 0; pair < 16; ++pair) {
          const Bits* queries = b + t * kTile + pair * 32;
          const auto left = reinterpret_cast<__m512bh>(_mm512_load_si512(queries));
          const auto right = reinterpret_cast<__m512bh>(_mm512_load_si512(queries + b_half));
          for (std::int64_t r = 0; r < kRows; ++r) {
            const void* element = rows + t * kTile + r * 32 + pair * 2;
            const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(*static_cast<const std::int32_t*>(element)));
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], left, x);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], right, x);
          }
        }
      }
      for (std::int64_t r = 0; r < kRows; ++r) {
        for (std::int64_t v = 0; v < 2; ++v) _mm512_store_ps(target + r * kBlock + v * 16, sums[r][v]);
      }
    }
  }
};

}  // namespace

std::size_t flash_bf16_scratch_bytes(const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim) {
  return static_cast<std::size_t>(Scratch(nullptr, tiling, head_dim, value_dim).bytes);
}

double bf16_dot_products(std::int64_t rounds) {
  constexpr int kChains = 24;
  __m512 sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = _mm512_set1_ps(static_cast<float>(c));
  const auto one = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f803f80));
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, one, one);
  }
  __m512 total = _mm512_setzero_ps();
  for (const auto& sum : sums) total = _mm512_add_ps(total, sum);
  volatile float kept = _mm512_cvtss_f32(total);  // or the loop would go
  static_cast<void>(kept);
  return static_cast<double>(rounds) * kChains * 2 * 32;
}

void flash_bf16(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
                std::byte* scratch) {
  if (heads.dtype == DType::f8_e4m3)
    return FlashBf16<DotProducts, E4m3Operands>(heads, tiling, scratch).run(first, last);
  FlashBf16<DotProducts, Bf16Operands>(heads, tiling, scratch).run(first, last);
}

}  // namespace rondo::cpu
