// Flash attention in bfloat16, whatever multiplies: included by one file for each kind of product, which is compiled
// for its CPU level. Everything here has internal linkage.
//
// As in flash_attention.cpp the scores stand transposed, [keys][queries], so that the softmax works down the lanes.
// Every operand is packed into tiles of 1 KiB: keys, and values transposed, as 16 rows of 32 elements; queries and
// weights as 16 pairs of such elements for 16 queries. Products is a class with
//   Scope               what has to be set up on the thread that multiplies
//   multiply(accumulate, a, a_half, b, b_half, tiles, c)
//                       c [32][32] float32 = (or +=) the sum over `tiles` tiles of a (rows 0 to 15, those from 16 on
//                       lie a_half further) times b (queries 0 to 15, likewise)
//   kOverlaps           whether products run beside vector instructions; then also begin(), step() and store()
// and Operands says what is multiplied: bfloat16, or e4m3, which bfloat16 holds exactly. Scores of e4m3 get their
// scales as they become weights; sums of values stand in the scale of the block of keys that was added last.
#pragma once

#include "attention/quantization_limits.h"
#include "backends/cpu/flash_bf16.h"
#include "backends/cpu/flash_blocks-inl.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kTile = 512;  // elements of a bfloat16 tile, 16 rows of 64 bytes
// Weights may grow to 2^8 before sums are rescaled to a new largest score: rescaling is rare, precision is the same.
constexpr float kSlack = 8.0F;

struct Scratch {
  Scratch(std::byte* base, const FlashTiling& tiling, std::int64_t head_dim, std::int64_t value_dim)
      : key_block(tiling.key_block),
        width(round_up(head_dim, 32)),
        value_width(round_up(value_dim, 32)),
        value_scales((value_dim + kE4m3Columns - 1) / kE4m3Columns) {
    MemoryParts parts(base);
    parts.take(keys, key_block * width);
    parts.take(values, key_block * value_width);
    parts.take(queries, tiling.chunk * width * kBlock);
    parts.take(sums, tiling.chunk * value_width * kBlock);
    parts.take(center, tiling.chunk * kBlock);
    parts.take(total, tiling.chunk * kBlock);
    parts.take(used, tiling.chunk * kBlock);
    parts.take(units, tiling.chunk * value_scales);
    parts.take(scores, kStep * kBlock);
    parts.take(weights, key_block * kBlock);
    bytes = parts.bytes();
  }
  std::int64_t key_block;  // a multiple of kStep
  std::int64_t width;
  std::int64_t value_width;
  std::int64_t value_scales;  // of a block of keys in e4m3
  Bits* keys;                 // tiles [key / 16][d / 32] of [16 keys][32 d]
  Bits* values;               // tiles [column / 16][key / 32] of [16 columns][32 keys]
  Bits* queries;              // for each block, tiles [query / 16][d / 32] of [16 pairs of d][16 queries][2]
  float* sums;                // for each block [value_width][32 queries]
  float* center;              // for each block, what is subtracted from its scores (base 2)
  float* total;               // for each block, the sum of weights so far
  float* used;                // the same of rounded weights; of e4m3 only
  float* units;               // for each block [value_scales], what its sums are multiples of; of e4m3 only
  float* scores;              // [32 keys][32 queries]
  Bits* weights;              // tiles [query / 16][key / 32] of [16 pairs of keys][16 queries][2]
  std::int64_t bytes;
};

inline __mmask32 first_of_32(std::int64_t count) { return count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1; }

struct Bf16Operands {
  using Element = Bits;
  static constexpr bool kScaled = false;

  /// The first `count` (at most 32) elements of a row as bfloat16, then zeros.
  static __m512i load_row(const Bits* row, std::int64_t count) {
    return _mm512_maskz_loadu_epi16(first_of_32(count), row);
  }
};

struct E4m3Operands {
  using Element = std::uint8_t;
  static constexpr bool kScaled = true;

  static __m512i load_row(const std::uint8_t* row, std::int64_t count) {
    const __m512i wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(first_of_32(count), row));
    const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi16(0x7f));
    // The exponents of the two formats are 120 apart; what is below 2^-6 has no leading one: a table of m * 2^-9.
    const __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    const __m512i subnormal = _mm512_permutexvar_epi16(
        magnitude, _mm512_castsi128_si512(_mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60)));
    const __mmask32 is_subnormal = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(wide, _mm512_set1_epi16(0x80)), 8);
    return _mm512_or_si512(_mm512_mask_mov_epi16(normal, is_subnormal, subnormal), sign);
  }
};

/// Rounds to kE4m3Bits significant bits.
inline __m512 significant(__m512 x) {
  constexpr int kUnit = 1 << (24 - kE4m3Bits);
  const __m512i raised = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(kUnit / 2));
  return _mm512_castsi512_ps(_mm512_and_si512(raised, _mm512_set1_epi32(-kUnit)));
}

template <class Products, class Operands>
class FlashBf16 : FlashBlocks {
 public:
  FlashBf16(const FlashHeads& heads, const FlashTiling& tiling, std::byte* memory)
      : FlashBlocks(heads),
        s_(memory, tiling, heads.head_dim, heads.value_dim),
        score_factor_((heads.scale < 0 ? -heads.scale : heads.scale) * kLog2E) {
    set_factor(1.0F);
    for (float& scale : value_scales_) scale = 0;
    for (float& scale : largest_scales_) scale = 0;
  }

  void run(std::int64_t first, std::int64_t last) {
    const typename Products::Scope scope;
    std::int64_t visible = 0;
    for (std::int64_t b = first; b < last; ++b) {
      load_queries(b - first, block(b));
      visible = std::max(visible, visible_keys(block(b)));
    }
    for (std::int64_t key = 0; key < visible; key += s_.key_block) {
      const std::int64_t count = std::min(s_.key_block, visible - key);
      pack_keys(key, count);
      if constexpr (Operands::kScaled) change_units(key / kE4m3Keys);
      pack_values(key, count);
      for (std::int64_t b = first; b < last; ++b) {
        const Block q = block(b);
        const std::int64_t seen = std::min(count, visible_keys(q) - key);
        if (seen <= 0) continue;
        if constexpr (Operands::kScaled) use_scales(b - first, q, key / kE4m3Keys);
        attend(b - first, q, key, seen);
      }
    }
    for (std::int64_t b = first; b < last; ++b) store_result(b - first, block(b));
  }

 private:
  using Element = typename Operands::Element;

  /// Pairs of keys of a step, times the two halves of its queries.
  static constexpr std::int64_t kPairs = kStep / 2 * 2;

  struct Weighing {
    Bits* tiles;       // where the step's weights go
    __m512 center[2];  // for each half of the queries
    __m512 total[2];
    __m512 used[2];
  };

  Bits* queries_of(std::int64_t slot) const { return s_.queries + slot * s_.width * kBlock; }
  float* sums_of(std::int64_t slot) const { return s_.sums + slot * s_.value_width * kBlock; }
  float* center_of(std::int64_t slot) const { return s_.center + slot * kBlock; }
  float* total_of(std::int64_t slot) const { return s_.total + slot * kBlock; }
  float* used_of(std::int64_t slot) const { return s_.used + slot * kBlock; }
  float* units_of(std::int64_t slot) const { return s_.units + slot * s_.value_scales; }

  /// What scores are multiplied by, all in all: a tiny factor in place of 0 keeps hidden scores at -infinity.
  void set_factor(float scale) {
    const float factor = score_factor_ * scale;
    factor_ = factor < kTiny ? kTiny : factor;
    weight_factor_ = adds_mask_ ? 1.0F : factor_;
  }

  /// Goes on to the scales of another block of keys' values. Values that are next to nothing beside any before them
  /// count as 0: sums in their scale might overflow. (Sums reach 448 * 2^8 times the number of keys.)
  void change_units(std::int64_t block) {
    constexpr float kMost = 1e24F;
    for (std::int64_t c = 0; c < s_.value_scales; ++c) {
      const float before = value_scales_[c];
      const float scale = h_.quantization.value_scales[block * s_.value_scales + c];
      const bool is_nothing = scale <= kLeastMagnitude / kE4m3Limit || largest_scales_[c] / kMost > scale;
      skips_values_[c] = is_nothing;
      value_scales_[c] = is_nothing ? before : scale;
      largest_scales_[c] = std::max(largest_scales_[c], value_scales_[c]);
    }
  }

  /// The scales of a block of queries beside one of keys; its sums go on in the scales of the latter.
  void use_scales(std::int64_t slot, const Block& q, std::int64_t block) {
    const float query_scale =
        h_.quantization.query_scales[q.head * h_.quantization.query_scales_head_stride + q.first / kE4m3Queries];
    set_factor(query_scale * h_.quantization.key_scales[block]);
    for (std::int64_t c = 0; c < s_.value_scales; ++c) {
      float& unit = units_of(slot)[c];
      if (unit == value_scales_[c]) continue;
      const __m512 factor = _mm512_set1_ps(unit == 0 ? 1.0F : unit / value_scales_[c]);
      const std::int64_t last = std::min((c + 1) * kE4m3Columns, s_.value_width);
      for (std::int64_t i = c * kE4m3Columns * kBlock; i < last * kBlock; i += 16) {
        float* sums = sums_of(slot) + i;
        _mm512_store_ps(sums, _mm512_mul_ps(_mm512_load_ps(sums), factor));
      }
      unit = value_scales_[c];
    }
  }

  void load_queries(std::int64_t slot, const Block& q) {
    // A negative scale turns the queries around, so that the largest score is also the largest product.
    const __m512i sign = _mm512_set1_epi16(h_.scale < 0 ? std::int16_t(0x8000) : std::int16_t(0));
    for (std::int64_t v = 0; v < 2; ++v) {
      for (std::int64_t d = 0; d < s_.width; d += 32) {
        Rows x;
        for (std::int64_t r = 0; r < 16; ++r) {
          const std::int64_t query = v * 16 + r;
          const Element* row = static_cast<const Element*>(h_.query) + q.head * h_.query_head_stride +
                               (q.first + std::min(query, q.count - 1)) * h_.query_stride;
          x[r] = query < q.count && d < h_.head_dim
                     ? _mm512_xor_si512(Operands::load_row(row + d, h_.head_dim - d), sign)
                     : _mm512_setzero_si512();
        }
        transpose(x);
        Bits* tile = queries_of(slot) + (v * s_.width + d) * 16;
        for (std::int64_t r = 0; r < 16; ++r) _mm512_store_si512(tile + r * 32, x[r]);
      }
    }
    fill(sums_of(slot), s_.value_width * kBlock, 0.0F);
    fill(center_of(slot), kBlock, kLowest);
    fill(total_of(slot), kBlock, 0.0F);
    fill(used_of(slot), kBlock, 0.0F);
    fill(units_of(slot), s_.value_scales, 0.0F);
  }

  void pack_keys(std::int64_t key, std::int64_t count) {
    for (std::int64_t j = 0; j < round_up(count, kStep); ++j) {
      const Element* row = static_cast<const Element*>(h_.key) + (key + std::min(j, count - 1)) * h_.key_stride;
      Bits* target = s_.keys + j / 16 * (s_.width * 16) + j % 16 * 32;
      for (std::int64_t d = 0; d < s_.width; d += 32) {
        const bool real = j < count && d < h_.head_dim;
        _mm512_store_si512(target + d * 16,
                           real ? Operands::load_row(row + d, h_.head_dim - d) : _mm512_setzero_si512());
      }
    }
  }

  void pack_values(std::int64_t key, std::int64_t count) {
    const auto* first = static_cast<const Element*>(h_.value) + key * h_.value_stride;
    for (std::int64_t j = 0; j < round_up(count, kStep); j += kStep) {
      for (std::int64_t c = 0; c < s_.value_width; c += 32) {
        // Columns c to c + 15 and c + 16 to c + 31, as pairs of keys.
        Rows left;
        Rows right;
        for (std::int64_t pair = 0; pair < 16; ++pair) {
          const auto row = [&](std::int64_t r) {
            const bool real = r < count && c < h_.value_dim && !skips_values_[c / kE4m3Columns];
            return real ? Operands::load_row(first + r * h_.value_stride + c, h_.value_dim - c)
                        : _mm512_setzero_si512();
          };
          const __m512i even = row(j + 2 * pair);
          const __m512i odd = row(j + 2 * pair + 1);
          left[pair] = _mm512_or_si512(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(even)),
                                       _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(odd)), 16));
          right[pair] =
              _mm512_or_si512(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(even, 1)),
                              _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(odd, 1)), 16));
        }
        transpose(left);
        transpose(right);
        Bits* tile = s_.values + (c * s_.key_block / 16 + j) * 16;
        for (std::int64_t r = 0; r < 16; ++r) {
          _mm512_store_si512(tile + r * 32, left[r]);
          _mm512_store_si512(tile + s_.key_block * 16 + r * 32, right[r]);
        }
      }
    }
  }

  void attend(std::int64_t slot, const Block& q, std::int64_t key, std::int64_t count) {
    std::int64_t pending = 0;  // weights from here on are not yet in the sums
    score(slot, 0);
    for (std::int64_t j = 0; j < count; j += kStep) {
      const __m512 factor[2] = {_mm512_set1_ps(factor_), _mm512_set1_ps(factor_)};
      hide(s_.scores, q, key + j, std::min(kStep, count - j), factor);
      if (raises_center(slot)) {
        add_values(slot, pending, j);
        pending = j;
        raise_center(slot);
      }
      const bool is_last = j + kStep >= count;
      Weighing weighing = begin_weighing(slot, j);
      if constexpr (Products::kOverlaps) {
        if (!is_last) {
          weigh_while_scoring(slot, j + kStep, weighing);
          end_weighing(slot, weighing);
          Products::store(s_.scores);
          continue;
        }
      }
      weigh(weighing, 0, kPairs);
      end_weighing(slot, weighing);
      if (!is_last) score(slot, j + kStep);
    }
    add_values(slot, pending, round_up(count, kStep));
  }

  /// scores = 32 keys from j on . 32 queries
  void score(std::int64_t slot, std::int64_t j) const {
    const std::int64_t half = s_.width * 16;
    Products::multiply(false, s_.keys + j * s_.width, half, queries_of(slot), half, s_.width / 32, s_.scores);
  }

  /// The products for the step at j run while the vector units weigh the scores of the one before, whose place the new
  /// scores are to take: they stay in the tiles.
  void weigh_while_scoring(std::int64_t slot, std::int64_t j, Weighing& weighing) const {
    const std::int64_t half = s_.width * 16;
    const Bits* keys = s_.keys + j * s_.width;
    const Bits* queries = queries_of(slot);
    const std::int64_t tiles = s_.width / 32;
    Products::begin();
    for (std::int64_t t = 0; t < tiles; ++t) {
      Products::step(keys + t * kTile, half, queries + t * kTile, half);
      weigh(weighing, kPairs * t / tiles, kPairs * (t + 1) / tiles);
    }
  }

  __m512 largest(std::int64_t v) const {
    __m512 a = _mm512_load_ps(s_.scores + v * 16);
    __m512 b = _mm512_load_ps(s_.scores + kBlock + v * 16);
    for (std::int64_t j = 2; j < kStep; j += 2) {
      a = _mm512_max_ps(_mm512_load_ps(s_.scores + j * kBlock + v * 16), a);
      b = _mm512_max_ps(_mm512_load_ps(s_.scores + (j + 1) * kBlock + v * 16), b);
    }
    return _mm512_mul_ps(_mm512_max_ps(a, b), _mm512_set1_ps(weight_factor_));
  }

  bool raises_center(std::int64_t slot) {
    unsigned higher = 0;
    for (std::int64_t v = 0; v < 2; ++v) {
      largest_[v] = largest(v);
      const __m512 limit = _mm512_add_ps(_mm512_load_ps(center_of(slot) + v * 16), _mm512_set1_ps(kSlack));
      higher |= _mm512_cmp_ps_mask(largest_[v], limit, _CMP_GT_OQ);
    }
    return higher != 0;
  }

  /// Makes the largest score the center where it is above, and shrinks the sums accordingly.
  void raise_center(std::int64_t slot) {
    for (std::int64_t v = 0; v < 2; ++v) {
      float* center = center_of(slot) + v * 16;
      float* total = total_of(slot) + v * 16;
      const __m512 before = _mm512_load_ps(center);
      __m512 after = _mm512_max_ps(largest_[v], before);
      // Of a power of two more or less in all weights their rounding does not depend.
      if constexpr (Operands::kScaled) after = _mm512_ceil_ps(after);
      // -infinity minus itself would be NaN: a lane without any score has nothing to shrink.
      const __mmask16 unchanged = _mm512_cmp_ps_mask(before, after, _CMP_EQ_OQ);
      const __m512 shrink =
          _mm512_mask_mov_ps(exp2_rough(_mm512_sub_ps(before, after)), unchanged, _mm512_set1_ps(1.0F));
      _mm512_store_ps(center, after);
      _mm512_store_ps(total, _mm512_mul_ps(_mm512_load_ps(total), shrink));
      if constexpr (Operands::kScaled) {
        float* used = used_of(slot) + v * 16;
        _mm512_store_ps(used, _mm512_mul_ps(_mm512_load_ps(used), shrink));
      }
      for (std::int64_t c = 0; c < s_.value_width; ++c) {
        float* sums = sums_of(slot) + c * kBlock + v * 16;
        _mm512_store_ps(sums, _mm512_mul_ps(_mm512_load_ps(sums), shrink));
      }
    }
  }

  Weighing begin_weighing(std::int64_t slot, std::int64_t j) const {
    Weighing w;
    w.tiles = s_.weights + j * 16;
    for (std::int64_t v = 0; v < 2; ++v) {
      const __m512 center = _mm512_load_ps(center_of(slot) + v * 16);
      // Where nothing is visible yet any finite center makes every weight 0.
      w.center[v] = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(center, _mm512_set1_ps(kLowest), _CMP_NEQ_UQ), center);
      w.total[v] = _mm512_load_ps(total_of(slot) + v * 16);
      w.used[v] = _mm512_load_ps(used_of(slot) + v * 16);
    }
    return w;
  }

  /// weights = 2^(weight_factor * score - center) in bfloat16, for pairs [first, last).
  void weigh(Weighing& w, std::int64_t first, std::int64_t last) const {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512 factor = _mm512_set1_ps(weight_factor_);
    for (std::int64_t v = 0; v < 2; ++v) {
      const std::int64_t begin = std::max(first - v * kPairs / 2, std::int64_t{0});
      const std::int64_t end = std::min(last - v * kPairs / 2, kPairs / 2);
      const __m512 center = w.center[v];
      __m512 total = w.total[v];
      __m512 used = w.used[v];
      for (std::int64_t pair = begin; pair < end; ++pair) {
        const float* scores = s_.scores + 2 * pair * kBlock + v * 16;
        __m512 even = exp2_rough(_mm512_fmsub_ps(_mm512_load_ps(scores), factor, center));
        __m512 odd = exp2_rough(_mm512_fmsub_ps(_mm512_load_ps(scores + kBlock), factor, center));
        total = _mm512_add_ps(total, _mm512_add_ps(even, odd));
        if constexpr (Operands::kScaled) {
          even = significant(even);
          odd = significant(odd);
          used = _mm512_add_ps(used, _mm512_add_ps(even, odd));
        }
        const auto narrow = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
        _mm512_store_si512(w.tiles + v * s_.key_block * 16 + pair * 32, _mm512_permutexvar_epi16(interleave, narrow));
      }
      w.total[v] = total;
      w.used[v] = used;
    }
  }

  void end_weighing(std::int64_t slot, const Weighing& w) const {
    for (std::int64_t v = 0; v < 2; ++v) {
      _mm512_store_ps(total_of(slot) + v * 16, w.total[v]);
      _mm512_store_ps(used_of(slot) + v * 16, w.used[v]);
    }
  }

  /// sums += values . weights, for keys [first, last) of the packed ones
  void add_values(std::int64_t slot, std::int64_t first, std::int64_t last) const {
    if (first == last) return;
    const std::int64_t half = s_.key_block * 16;
    for (std::int64_t c = 0; c < s_.value_width; c += 32) {
      Products::multiply(true, s_.values + c * s_.key_block + first * 16, half, s_.weights + first * 16, half,
                         (last - first) / 32, sums_of(slot) + c * kBlock);
    }
  }

  void store_result(std::int64_t slot, const Block& q) const {
    for (std::int64_t v = 0; v * 16 < q.count; ++v) {
      const std::int64_t rows = std::min<std::int64_t>(16, q.count - v * 16);
      const float* total = total_of(slot) + v * 16;
      const float* used = Operands::kScaled ? used_of(slot) + v * 16 : total;
      for (std::int64_t c = 0; c < h_.value_dim; c += 16) {
        Rows x;
        for (std::int64_t r = 0; r < 16; ++r) x[r] = _mm512_load_si512(sums_of(slot) + (c + r) * kBlock + v * 16);
        transpose(x);
        const __m512 unit = _mm512_set1_ps(Operands::kScaled ? units_of(slot)[c / kE4m3Columns] : 1.0F);
        for (std::int64_t r = 0; r < rows; ++r) {
          // Rounding may take a NaN for a number.
          const __m512 inverse = _mm512_set1_ps(std::isnan(total[r]) ? total[r] : used[r] == 0 ? 0.0F : 1.0F / used[r]);
          const std::int64_t index = q.head * h_.output_head_stride + (q.first + v * 16 + r) * h_.output_stride;
          store_floats(h_.output_dtype, _mm512_mul_ps(_mm512_mul_ps(_mm512_castsi512_ps(x[r]), inverse), unit),
                       const_cast<void*>(element(h_.output_dtype, h_.output, index)), c, h_.value_dim - c);
        }
      }
      if (h_.lse == nullptr) continue;
      for (std::int64_t r = 0; r < rows; ++r) {
        const float center = center_of(slot)[v * 16 + r];
        h_.lse[q.head * h_.lse_head_stride + (q.first + v * 16 + r) * h_.lse_stride] =
            total[r] == 0 ? kLowest : center * kLn2 + std::log(total[r]);
      }
    }
  }

  const Scratch s_;
  const float score_factor_;
  float factor_ = 0;
  float weight_factor_ = 0;  // what scores are multiplied by when they become weights
  // Of the block of keys that is worked on.
  float value_scales_[4];
  bool skips_values_[4] = {};
  float largest_scales_[4];  // up to it
  __m512 largest_[2] = {};
};

}  // namespace
}  // namespace rondo::cpu
