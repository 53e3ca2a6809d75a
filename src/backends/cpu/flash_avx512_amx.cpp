// Flash attention in bfloat16 on AMX. Compiled for that level alone; called only where the CPU has it.
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/cpu/flash_bf16-inl.h"

// Budget at head dim 128, for 32 keys x 32 queries: 16 tile products of 16 cycles for the scores and as many for the
// values, and 64 vectors of scores with about 10 instructions each, 320 cycles of both vector ports. Loads of tiles
// hide behind products of the same step (4 loads of 8 cycles to 4 products).

namespace rondo::cpu {
namespace {

/// All eight tiles of 16 rows of 64 bytes, for this thread, until destruction.
class TileScope {
 public:
  TileScope() {
    struct alignas(64) {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    static_assert(sizeof config == 64);
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = 64;
      config.rows[tile] = 16;
    }
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// Loads of tiles are opaque to the compiler: stores before this stay before them.
inline void order_memory() { asm volatile("" ::: "memory"); }

struct AmxProducts {
  using Scope = TileScope;
  static constexpr bool kOverlaps = true;

  static void begin() {
    order_memory();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  static void load(const float* c) {
    order_memory();
    _tile_loadd(0, c, kRow);
    _tile_loadd(1, c + 16, kRow);
    _tile_loadd(2, c + 16 * kBlock, kRow);
    _tile_loadd(3, c + 16 * kBlock + 16, kRow);
  }
  static void step(const Bits* a, std::int64_t a_half, const Bits* b, std::int64_t b_half) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + b_half, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + a_half, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  static void store(float* c) {
    _tile_stored(0, c, kRow);
    _tile_stored(1, c + 16, kRow);
    _tile_stored(2, c + 16 * kBlock, kRow);
    _tile_stored(3, c + 16 * kBlock + 16, kRow);
  }
  static void multiply(bool accumulate, const Bits* a, std::int64_t a_half, const Bits* b, std::int64_t b_half,
                       std::int64_t tiles, float* c) {
    if (accumulate) {
      load(c);
    } else {
      begin();
    }
    for (std::int64_t t = 0; t < tiles; ++t) step(a + t * kTile, a_half, b + t * kTile, b_half);
    store(c);
  }

 private:
  static constexpr int kRow = kBlock * sizeof(float);
};

}  // namespace

bool request_amx() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of <asm/prctl.h>
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

double amx_products(std::int64_t rounds) {
  const AmxProducts::Scope scope;
  AmxProducts::begin();
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (std::int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return static_cast<double>(rounds) * 4 * 2 * 16 * 16 * 32;
}

void flash_amx(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
               std::byte* scratch) {
  if (heads.dtype == DType::f8_e4m3)
    return FlashBf16<AmxProducts, E4m3Operands>(heads, tiling, scratch).run(first, last);
  FlashBf16<AmxProducts, Bf16Operands>(heads, tiling, scratch).run(first, last);
}

}  // namespace rondo::cpu
