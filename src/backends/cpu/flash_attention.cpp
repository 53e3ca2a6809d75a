#include "backends/cpu/flash_attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "attention/quantization_limits.h"
#include "backends/cpu/flash_scratch-inl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/flash_attention.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/flash_queries-inl.h"

// The scores are computed transposed: a vector's lanes are queries, so that one element of a key, broadcast from where
// it lies, meets many queries. Keys and values then need no transposition, the softmax works down the lanes without a
// horizontal step, and no head dim wastes lanes.
//
// Budget of a block at AVX-512 and head dim 128: 32 queries (packed 16 KiB) against 192 keys (scores 24 KiB) stay in
// level-1 cache, their sums take 16 KiB of level 2. The blocks of a call share packed keys and values (2 x 96 KiB).
// A score costs 2 x 128 multiply-adds in 16 lanes and about 16 instructions of softmax per vector: 94 % of the cycles
// are left for the products.

#ifndef RONDO_BACKENDS_CPU_FLASH_ATTENTION_ONCE
#define RONDO_BACKENDS_CPU_FLASH_ATTENTION_ONCE
namespace rondo::cpu {

constexpr std::int64_t kMaxLanes = 16;

// Products of more elements are summed in parts: a long sum in float32 drifts. Where scores may be large, whose
// rounding weighs more, parts are shorter; to do so always costs 2 % at head dim 128.
constexpr std::int64_t kLongestPart = 128;
constexpr std::int64_t kLongestPartOfLargeScores = 64;
constexpr float kLargeScore = 100.0F;

/// Where each part of a call's scratch begins. Sized for the widest vectors, whatever the level in use.
struct FlashScratch {
  static constexpr std::int64_t kBlock = 2 * kMaxLanes;

  FlashScratch(std::byte* base, const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim)
      : key_block(tiling.key_block) {
    MemoryParts parts(base);
    parts.take(keys, key_block * head_dim);
    parts.take(values, key_block * value_dim);
    parts.take(queries, tiling.chunk * head_dim * kBlock);
    parts.take(sums, tiling.chunk * value_dim * kBlock);
    parts.take(most, tiling.chunk * kBlock);
    parts.take(total, tiling.chunk * kBlock);
    parts.take(used, tiling.chunk * kBlock);
    parts.take(scores, key_block * kBlock);
    parts.take(mask, key_block * kBlock);
    parts.take(rows, kMaxLanes * round_up(std::max({head_dim, value_dim, key_block}), 4));
    bytes = parts.bytes();
  }
  std::int64_t key_block;
  float* keys;     // [keys][head_dim]
  float* values;   // [keys][value_dim]
  float* queries;  // for each block [head_dim][queries], scaled
  float* sums;     // for each block [value_dim][queries]
  float* most;     // for each block, the largest score so far (base 2)
  float* total;    // for each block, the sum of weights so far
  float* used;     // the same of rounded weights, where weights are rounded
  float* scores;   // [keys][queries]
  float* mask;     // [keys][queries], to be added to the scores
  float* rows;     // rows on their way into lanes or out of them
  std::int64_t bytes;
};

}  // namespace rondo::cpu
#endif  // RONDO_BACKENDS_CPU_FLASH_ATTENTION_ONCE

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

// Rows of a tile: with two vectors a row, 24 sums of 32 registers (AVX-512, and others with 32), or 12 of 16.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
constexpr int kRows = 6;
#else
constexpr int kRows = 12;
#endif

/// The largest square of a row's length.
HWY_INLINE float largest_square(const float* rows, std::int64_t count, std::int64_t width) {
  const Full d;
  const std::int64_t n = lanes();
  float largest = 0;
  for (std::int64_t r = 0; r < count; ++r, rows += width) {
    auto sum = hn::Zero(d);
    std::int64_t i = 0;
    for (; i + n <= width; i += n) {
      const auto x = hn::LoadU(d, rows + i);
      sum = hn::MulAdd(x, x, sum);
    }
    float square = hn::GetLane(hn::SumOfLanes(d, sum));
    for (; i < width; ++i) square += rows[i] * rows[i];
    largest = std::max(largest, square);
  }
  return largest;
}

/// What is added to scores as they are computed; both null: nothing.
struct TileMask {
  const float* lanes;  // [keys][queries]
  const float* keys;   // [keys], the same for all queries
};

/// scores[R keys][V vectors of queries] = keys . queries (summed in parts) + mask; `most` grows to the largest of them.
template <int R, int V>
HWY_INLINE void score_tile(const float* HWY_RESTRICT keys, std::int64_t head_dim, std::int64_t part_length,
                           const float* HWY_RESTRICT queries, const TileMask& mask, float* HWY_RESTRICT scores,
                           Vector (&most)[V]) {
  const Full d;
  const std::int64_t n = lanes();
  // One pointer for three rows, which x86 can address from it: one for each would not fit the registers.
  const float* group[(R + 2) / 3];
  for (std::int64_t g = 0; g < (R + 2) / 3; ++g) group[g] = keys + 3 * g * head_dim;
  Vector sums[R][V];
  for (std::int64_t part = 0; part < head_dim; part += part_length) {
    for (auto& row : sums) {
      for (auto& sum : row) sum = hn::Zero(d);
    }
    for (std::int64_t i = part; i < std::min(part + part_length, head_dim); ++i) {
      Vector q[V];
      for (int v = 0; v < V; ++v) q[v] = hn::Load(d, queries + i * V * n + v * n);
      for (int r = 0; r < R; ++r) {
        const auto k = hn::Set(d, group[r / 3][(r % 3) * head_dim + i]);
        for (int v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(k, q[v], sums[r][v]);
      }
    }
    if (part > 0) {
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) sums[r][v] = hn::Add(sums[r][v], hn::Load(d, scores + (r * V + v) * n));
      }
    }
    if (part + part_length >= head_dim) break;
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) hn::Store(sums[r][v], d, scores + (r * V + v) * n);
    }
  }
  if (mask.lanes != nullptr) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] = hn::Add(sums[r][v], hn::Load(d, mask.lanes + (r * V + v) * n));
    }
  }
  if (mask.keys != nullptr) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] = hn::Add(sums[r][v], hn::Set(d, mask.keys[r]));
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      most[v] = hn::Max(most[v], sums[r][v]);
      hn::Store(sums[r][v], d, scores + (r * V + v) * n);
    }
  }
}

/// sums[R value columns][V vectors of queries] = sums * shrink + values . weights
template <int R, int V>
HWY_INLINE void value_tile(const float* HWY_RESTRICT values, std::int64_t value_dim, std::int64_t keys,
                           const float* HWY_RESTRICT weights, const Vector (&shrink)[V], float* HWY_RESTRICT sums) {
  const Full d;
  const std::int64_t n = lanes();
  Vector added[R][V];
  for (auto& row : added) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (std::int64_t j = 0; j < keys; ++j) {
    Vector w[V];
    for (int v = 0; v < V; ++v) w[v] = hn::Load(d, weights + (j * V + v) * n);
    for (int r = 0; r < R; ++r) {
      const auto x = hn::Set(d, values[j * value_dim + r]);
      for (int v = 0; v < V; ++v) added[r][v] = hn::MulAdd(x, w[v], added[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      float* target = sums + (r * V + v) * n;
      hn::Store(hn::MulAdd(hn::Load(d, target), shrink[v], added[r][v]), d, target);
    }
  }
}

/// Cuts `count` rows into tiles as even as possible and calls tile(std::integral_constant<int, rows>, first row): a
/// tail of one row would leave the multipliers waiting for each other.
template <int R = kRows, class Tile>
HWY_INLINE void with_rows(int rows, std::int64_t first, const Tile& tile) {
  if constexpr (R > 1) {
    if (rows < R) return with_rows<R - 1>(rows, first, tile);
  }
  tile(std::integral_constant<int, R>(), first);
}

template <class Tile>
HWY_INLINE void over_tiles(std::int64_t count, const Tile& tile) {
  const std::int64_t tiles = (count + kRows - 1) / kRows;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t first = count * t / tiles;
    with_rows(static_cast<int>(count * (t + 1) / tiles - first), first, tile);
  }
}

template <class T>
void widen_row(const T* source, std::int64_t width, float factor, float* target) {
  for_lanes_twice(width, [&](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(load_float(d, source + i), hn::Set(d, factor)), d, target + i);
  });
}

/// `count` rows of `width` values from row `first` on, densely, times `factor`; those of e4m3 times what they are
/// multiples of, a scale for `height` rows and kE4m3Columns columns.
template <class T>
void widen_rows(const T* source, std::int64_t stride, std::int64_t first, std::int64_t count, std::int64_t width,
                float factor, const float* scales, std::int64_t height, float* target) {
  const std::int64_t blocks = (width + kE4m3Columns - 1) / kE4m3Columns;
  for (std::int64_t j = 0; j < count; ++j) {
    const T* row = source + (first + j) * stride;
    if constexpr (std::is_same_v<T, E4m3>) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t c = b * kE4m3Columns;
        widen_row(row + c, std::min(kE4m3Columns, width - c), factor * scales[(first + j) / height * blocks + b],
                  target + c);
      }
    } else {
      widen_row(row, width, factor, target);
    }
    target += width;
  }
}

template <class T>
class Flash : FlashQueries {
 public:
  Flash(const FlashHeads& heads, const FlashScratch& scratch)
      : FlashQueries(heads, scratch.rows, scratch.mask), s_(scratch) {}

  void run(std::int64_t first, std::int64_t last) {
    std::int64_t visible = 0;
    for (std::int64_t b = first; b < last; ++b) {
      load_queries(b - first, block(b));
      visible = std::max(visible, visible_keys(block(b)));
    }
    for (std::int64_t k = 0; k < visible; k += s_.key_block) {
      const std::int64_t count = std::min(s_.key_block, visible - k);
      const float* keys = packed(h_.key, h_.key_stride, h_.head_dim, h_.quantization.key_scales, k, count, s_.keys);
      choose_part(keys, count);
      const float* values =
          packed(h_.value, h_.value_stride, h_.value_dim, h_.quantization.value_scales, k, count, s_.values);
      for (std::int64_t b = first; b < last; ++b) {
        const Block q = block(b);
        prefetch_part(k + s_.key_block, std::min(s_.key_block, visible - k - s_.key_block), b - first, last - first);
        const std::int64_t seen = std::min(count, visible_keys(q) - k);
        if (seen <= 0) continue;
        if (q.vectors == 1) {
          attend<1>(b - first, q, k, seen, keys, values);
        } else {
          attend<2>(b - first, q, k, seen, keys, values);
        }
      }
    }
    for (std::int64_t b = first; b < last; ++b) store_result(b - first, block(b));
  }

 private:
  static constexpr bool kRoundsWeights = std::is_same_v<T, E4m3>;

  float* queries_of(std::int64_t slot) const { return s_.queries + slot * h_.head_dim * FlashScratch::kBlock; }
  float* sums_of(std::int64_t slot) const { return s_.sums + slot * h_.value_dim * FlashScratch::kBlock; }
  float* most_of(std::int64_t slot) const { return s_.most + slot * FlashScratch::kBlock; }
  float* total_of(std::int64_t slot) const { return s_.total + slot * FlashScratch::kBlock; }
  float* used_of(std::int64_t slot) const { return s_.used + slot * FlashScratch::kBlock; }

  /// Float rows at `first`, `count` of them: where they lie when they are that already, else packed into `target`.
  const float* packed(const void* rows, std::int64_t stride, std::int64_t width, const float* scales,
                      std::int64_t first, std::int64_t count, float* target) const {
    const T* source = static_cast<const T*>(rows);
    if constexpr (std::is_same_v<T, float>) {
      if (stride == width) return source + first * stride;
    }
    widen_rows(source, stride, first, count, width, 1.0F, scales, kE4m3Keys, target);
    return target;
  }

  /// Into how many parts the scores' sums are cut, from the largest that a score of these keys can be.
  void choose_part(const float* keys, std::int64_t count) {
    std::int64_t longest = kLongestPart;
    if (h_.head_dim > kLongestPartOfLargeScores) {
      const float squares = query_square_ * largest_square(keys, count, h_.head_dim);
      constexpr float kLimit = kLargeScore * kLog2E;
      if (squares > kLimit * kLimit) longest = kLongestPartOfLargeScores;
    }
    const std::int64_t parts = (h_.head_dim + longest - 1) / longest;
    part_ = (h_.head_dim + parts - 1) / parts;
  }

  /// Part `part` of `parts` of a block's keys and values on their way into level-2 cache, while the block before is
  /// worked on: their rows lie far apart, which no hardware prefetcher follows.
  void prefetch_part(std::int64_t first, std::int64_t count, std::int64_t part, std::int64_t parts) const {
    for (std::int64_t j = count * part / parts; j < count * (part + 1) / parts; ++j) {
      prefetch_row(static_cast<const T*>(h_.key) + (first + j) * h_.key_stride, h_.head_dim);
      prefetch_row(static_cast<const T*>(h_.value) + (first + j) * h_.value_stride, h_.value_dim);
    }
  }

  static void prefetch_row(const T* row, std::int64_t width) {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (std::int64_t i = 0; i < width; i += kLine) __builtin_prefetch(row + i, 0, 2);
  }

  void load_queries(std::int64_t slot, const Block& q) {
    const std::int64_t n = lanes();
    const std::int64_t stride = round_up(h_.head_dim, 4);
    for (std::int64_t v = 0; v < q.vectors; ++v) {
      for (std::int64_t r = 0; r < n; ++r) {
        float* row = s_.rows + r * stride;
        if (v * n + r < q.count) {
          widen_rows(static_cast<const T*>(h_.query) + q.head * h_.query_head_stride, h_.query_stride,
                     q.first + v * n + r, 1, h_.head_dim, h_.scale * kLog2E,
                     h_.quantization.query_scales + q.head * h_.quantization.query_scales_head_stride, kE4m3Queries,
                     row);
          if (h_.head_dim > kLongestPartOfLargeScores)
            query_square_ = std::max(query_square_, largest_square(row, 1, h_.head_dim));
        } else {
          std::fill_n(row, h_.head_dim, 0.0F);
        }
      }
      rows_to_lanes(s_.rows, stride, h_.head_dim, queries_of(slot) + v * n, q.vectors * n);
    }
    std::fill_n(sums_of(slot), h_.value_dim * q.vectors * n, 0.0F);
    std::fill_n(most_of(slot), q.vectors * n, kLowest);
    std::fill_n(total_of(slot), q.vectors * n, 0.0F);
    std::fill_n(used_of(slot), q.vectors * n, 0.0F);
  }

  template <int V>
  void attend(std::int64_t slot, const Block& q, std::int64_t key, std::int64_t count, const float* keys,
              const float* values) {
    const Full d;
    const std::int64_t n = lanes();
    const float* queries = queries_of(slot);
    Vector before[V];
    Vector most[V];
    for (int v = 0; v < V; ++v) most[v] = before[v] = hn::Load(d, most_of(slot) + v * n);
    if (h_.mask != nullptr) load_mask(q, V, key, count);
    over_tiles(count, [&](auto rows, std::int64_t first) HWY_ATTR {
      const TileMask mask{has_lane_mask() ? s_.mask + first * V * n : nullptr,
                          has_key_mask() ? s_.mask + first : nullptr};
      score_tile<decltype(rows)::value, V>(keys + first * h_.head_dim, h_.head_dim, part_, queries, mask,
                                           s_.scores + first * V * n, most);
    });
    hide_later_keys<V>(q, key, count, before, most);
    Vector shrink[V];
    softmax<V>(slot, count, before, most, shrink);
    float* sums = sums_of(slot);
    over_tiles(h_.value_dim, [&](auto rows, std::int64_t first) HWY_ATTR {
      value_tile<decltype(rows)::value, V>(values + first, h_.value_dim, count, s_.scores, shrink,
                                           sums + first * V * n);
    });
  }

  /// Hides keys from queries that stand before them. Where there are any, `most` becomes the larger of `before` and the
  /// scores that are left.
  template <int V>
  void hide_later_keys(const Block& q, std::int64_t key, std::int64_t count, const Vector (&before)[V],
                       Vector (&most)[V]) {
    const Full d;
    const std::int64_t n = lanes();
    const std::int64_t hidden = first_hidden(q, key, count);
    if (hidden == count) return;
    for (int v = 0; v < V; ++v) {
      most[v] = before[v];
      for (std::int64_t j = 0; j < count; ++j) {
        float* target = s_.scores + (j * V + v) * n;
        auto score = hn::Load(d, target);
        if (j >= hidden) {
          score = hide_later(q, key + j, v, score);
          hn::Store(score, d, target);
        }
        most[v] = hn::Max(most[v], score);
      }
    }
  }

  /// Turns scores into weights 2^(score - most); `shrink` is what earlier sums are to be multiplied by.
  template <int V>
  HWY_INLINE void softmax(std::int64_t slot, std::int64_t count, const Vector (&before)[V], const Vector (&most)[V],
                          Vector (&shrink)[V]) {
    const Full d;
    const std::int64_t n = lanes();
    for (int v = 0; v < V; ++v) {
      float* scores = s_.scores + v * n;
      // Of a power of two more or less in all weights their rounding does not depend.
      const auto highest = kRoundsWeights ? hn::Ceil(most[v]) : most[v];
      // Where nothing is visible yet, any finite center makes every weight 0.
      const auto center = hn::IfThenElse(hn::Eq(highest, hn::Set(d, kLowest)), hn::Zero(d), highest);
      shrink[v] = exp2_negative(hn::Sub(before[v], center));
      auto sum = hn::Zero(d);
      auto used = hn::Zero(d);
      for (std::int64_t j = 0; j < count; ++j) {
        const auto exponent = hn::Sub(hn::Load(d, scores + j * V * n), center);
        auto weight = kRoundsWeights ? exp2_rough(exponent) : exp2_negative(exponent);
        sum = hn::Add(sum, weight);
        if constexpr (kRoundsWeights) {
          weight = significant(weight);
          used = hn::Add(used, weight);
        }
        hn::Store(weight, d, scores + j * V * n);
      }
      add_up(total_of(slot) + v * n, shrink[v], sum);
      if constexpr (kRoundsWeights) add_up(used_of(slot) + v * n, shrink[v], used);
      hn::Store(highest, d, most_of(slot) + v * n);
    }
  }

  static HWY_INLINE void add_up(float* total, Vector shrink, Vector sum) {
    const Full d;
    hn::Store(hn::MulAdd(hn::Load(d, total), shrink, sum), d, total);
  }

  /// Rounds to kE4m3Bits significant bits.
  static HWY_INLINE Vector significant(Vector x) {
    const Full d;
    const hn::RebindToUnsigned<Full> bits;
    constexpr std::uint32_t kUnit = 1U << (24 - kE4m3Bits);
    const auto raised = hn::Add(hn::BitCast(bits, x), hn::Set(bits, kUnit / 2));
    return hn::BitCast(d, hn::And(raised, hn::Set(bits, ~(kUnit - 1))));
  }

  void store_result(std::int64_t slot, const Block& q) {
    const std::int64_t n = lanes();
    const float* used = kRoundsWeights ? used_of(slot) : total_of(slot);
    float factors[FlashScratch::kBlock];
    float lses[FlashScratch::kBlock];
    for (std::int64_t i = 0; i < q.vectors * n; ++i) {
      const float total = total_of(slot)[i];
      // Rounding may take a NaN for a number.
      factors[i] = std::isnan(total) ? total : used[i] == 0 ? 0.0F : 1.0F / used[i];
      lses[i] = total == 0 ? kLowest : most_of(slot)[i] * kLn2 + std::log(total);
    }
    store(q, q.vectors, sums_of(slot), factors, lses);
  }

  const FlashScratch s_;
  float query_square_ = 0;  // the largest square of a scaled query's length
  std::int64_t part_ = 0;   // elements of a product that are summed together
};

void FlashAttention(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
                    std::byte* memory) {
  const FlashScratch scratch(memory, tiling, heads.head_dim, heads.value_dim);
  switch (heads.dtype) {
    case DType::f32: return Flash<float>(heads, scratch).run(first, last);
    case DType::f16: return Flash<hwy::float16_t>(heads, scratch).run(first, last);
    case DType::f8_e4m3: return Flash<E4m3>(heads, scratch).run(first, last);
    default: return Flash<std::uint16_t>(heads, scratch).run(first, last);
  }
}

std::int64_t FlashBlockQueries() { return 2 * lanes(); }

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(FlashAttention);
HWY_EXPORT(FlashBlockQueries);

std::int64_t flash_block_queries() { return HWY_DYNAMIC_DISPATCH(FlashBlockQueries)(); }

std::size_t flash_scratch_bytes(const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim) {
  return static_cast<std::size_t>(FlashScratch(nullptr, tiling, head_dim, value_dim).bytes);
}

void flash_attention(const FlashHeads& heads, const FlashTiling& tiling, std::int64_t first, std::int64_t last,
                     std::byte* scratch) {
  HWY_DYNAMIC_DISPATCH(FlashAttention)(heads, tiling, first, last, scratch);
}

}  // namespace rondo::cpu
#endif
