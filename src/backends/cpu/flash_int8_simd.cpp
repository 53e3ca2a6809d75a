#include "backends/cpu/flash_int8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/flash_int8-inl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/flash_int8_simd.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/flash_queries-inl.h"

// As in flash_attention.cpp scores stand transposed, so that queries are what the lanes hold: they are the unsigned
// operand, four elements of one query a lane; keys and values are the signed one, four elements broadcast.
//
// Budget on AVX2: 32 multiply-adds take one vpmaddubsw, one vpmaddwd and one addition, of which the first two share two
// ports: 32 a cycle, where float32 has 16. Queries and weights have 7 bits (kNarrowQueryLimit), so that the sums of
// two products fit 16 bits.

#ifndef RONDO_BACKENDS_CPU_FLASH_INT8_SIMD_ONCE
#define RONDO_BACKENDS_CPU_FLASH_INT8_SIMD_ONCE
namespace rondo::cpu {

constexpr std::int64_t kKeys = kKeysOfBlock;
constexpr std::int64_t kGroup = kInt8Group;
constexpr Int8Block query_block(std::int64_t queries) { return {queries, kNarrowQueryLimit, kNarrowQueryLimit + 1}; }
constexpr float kLog2Weights = 6.98868468677217F;  // log2(kNarrowWeightLimit)

}  // namespace rondo::cpu
#endif  // RONDO_BACKENDS_CPU_FLASH_INT8_SIMD_ONCE

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

using Integers = hn::RebindToSigned<Full>;
using Sums = hn::Vec<Integers>;

/// sums + the four products of unsigned and signed bytes in each lane. Unsigned ones are at most 127.
HWY_INLINE Sums add_products(Sums sums, Sums unsigned_bytes, Sums signed_bytes) {
#if HWY_TARGET == HWY_AVX2
  const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes.raw, signed_bytes.raw);
  return Sums{_mm256_add_epi32(sums.raw, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  const __m512i pairs = _mm512_maddubs_epi16(unsigned_bytes.raw, signed_bytes.raw);
  return Sums{_mm512_add_epi32(sums.raw, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  const __m128i pairs = _mm_maddubs_epi16(unsigned_bytes.raw, signed_bytes.raw);
  return Sums{_mm_add_epi32(sums.raw, _mm_madd_epi16(pairs, _mm_set1_epi16(1)))};
#else
  const Integers d;
  const auto add = [&](auto left, auto right) { sums = hn::Add(sums, hn::Mul(left, right)); };
  const auto low = hn::Set(d, 0xff);
  add(hn::And(unsigned_bytes, low), hn::ShiftRight<24>(hn::ShiftLeft<24>(signed_bytes)));
  add(hn::And(hn::ShiftRight<8>(unsigned_bytes), low), hn::ShiftRight<24>(hn::ShiftLeft<16>(signed_bytes)));
  add(hn::And(hn::ShiftRight<16>(unsigned_bytes), low), hn::ShiftRight<24>(hn::ShiftLeft<8>(signed_bytes)));
  add(hn::And(hn::ShiftRight<24>(unsigned_bytes), low), hn::ShiftRight<24>(signed_bytes));
  return sums;
#endif
}

// Rows of sums that are kept in registers, two vectors each, beside two vectors of queries and what is broadcast.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
constexpr std::int64_t kRows = 4;
#else
constexpr std::int64_t kRows = 8;
#endif

/// Sums of 4 x `steps` products for `rows` (a multiple of kRows) rows of `a` and both vectors of `b`
/// [step][queries][4]. finish(row, vector, sums) takes each vector of them; row r begins with init[r].
template <class Finish>
HWY_INLINE void multiply(const std::int8_t* HWY_RESTRICT a, std::int64_t row_stride, std::int64_t step_stride,
                         const std::uint8_t* HWY_RESTRICT b, std::int64_t steps, std::int64_t rows,
                         const std::int32_t* init, const Finish& finish) {
  const Integers d;
  const auto* queries = reinterpret_cast<const std::int32_t*>(b);
  const std::int64_t n = lanes();
  for (std::int64_t first = 0; first < rows; first += kRows) {
    Sums sums[kRows][2];
    for (std::int64_t r = 0; r < kRows; ++r)
      sums[r][0] = sums[r][1] = init == nullptr ? hn::Zero(d) : hn::Set(d, init[first + r]);
    const std::int8_t* rows_of_a = a + first * row_stride;
    for (std::int64_t step = 0; step < steps; ++step) {
      const auto left = hn::Load(d, queries + step * 2 * n);
      const auto right = hn::Load(d, queries + step * 2 * n + n);
      for (std::int64_t r = 0; r < kRows; ++r) {
        std::int32_t group = 0;
        std::memcpy(&group, rows_of_a + r * row_stride + step * step_stride, sizeof group);
        const auto x = hn::Set(d, group);
        sums[r][0] = add_products(sums[r][0], left, x);
        sums[r][1] = add_products(sums[r][1], right, x);
      }
    }
    for (std::int64_t r = 0; r < kRows; ++r) {
      finish(first + r, 0, sums[r][0]);
      finish(first + r, 1, sums[r][1]);
    }
  }
}

class Int8 : FlashQueries {
 public:
  Int8(const FlashHeads& heads, const Int8Scratch& scratch, std::byte* memory)
      : FlashQueries(heads, scratch.rows, scratch.mask), s_(scratch), memory_(memory) {}

  void run(const std::byte* packed, std::int64_t first, std::int64_t last) {
    const Int8Block queries = query_block(2 * lanes());
    for (std::int64_t b = first; b < last; ++b) {
      const Block q = block(b);
      flash_int8_load_queries(h_, q.head, q.first, q.count, queries, memory_);
      const std::int64_t visible = visible_keys(q);
      const std::byte* next = packed;
      for (std::int64_t key = 0; key < visible; key += kKeys) {
        const PackedInt8 keys(const_cast<std::byte*>(next), h_.head_dim, h_.value_dim);
        attend(q, keys, key, std::min(kKeys, visible - key));
        next += keys.bytes;
      }
      store_result(q);
    }
  }

 private:
  // By itself: inlined, GCC 12 spills in its loops, 5 % of the time.
  HWY_NOINLINE void attend(const Block& q, const PackedInt8& keys, std::int64_t key, std::int64_t count) {
    const Full d;
    const std::int64_t n = lanes();
    multiply(keys.keys, keys.width, kGroup, s_.queries, keys.width / kGroup, round_up(count, kRows), keys.zeros,
             [&](std::int64_t row, std::int64_t v, Sums sums) HWY_ATTR {
               const auto score = hn::Mul(hn::ConvertTo(d, sums), hn::Set(d, keys.key_scales[row]));
               hn::Store(score, d, s_.scores + (row * 2 + v) * n);
             });
    if (h_.mask != nullptr) load_mask(q, 2, key, count);
    Vector share[2];
    for (int v = 0; v < 2; ++v) {
      hide(q, v, key, count);
      share[v] = weigh(v, count);
    }
    multiply(keys.values, kGroup, keys.value_width * kGroup, s_.weights, (count + kGroup - 1) / kGroup,
             keys.value_width, nullptr, [&](std::int64_t row, std::int64_t v, Sums sums) HWY_ATTR {
               float* target = s_.sums + (row * 2 + v) * n;
               // A block that a query does not see adds nothing, whatever its values are.
               const auto sees = hn::Ne(share[v], hn::Zero(d));
               const auto factor = hn::IfThenElseZero(sees, hn::Mul(share[v], hn::Set(d, keys.value_scales[row])));
               hn::Store(hn::MulAdd(hn::ConvertTo(d, sums), factor, hn::Load(d, target)), d, target);
             });
  }

  /// What scores are multiplied by when they become weights: with a mask they have been already.
  Vector factor(int v) const {
    const Full d;
    return h_.mask == nullptr ? hn::Load(d, s_.factor + v * lanes()) : hn::Set(d, 1.0F);
  }

  /// Adds the mask; -infinity where a query does not see a key, and up to a whole group of keys.
  void hide(const Block& q, int v, std::int64_t key, std::int64_t count) const {
    const Full d;
    const std::int64_t n = lanes();
    const auto over = [&](std::int64_t first, std::int64_t last, const auto& change) {
      for (std::int64_t j = first; j < last; ++j) {
        float* target = s_.scores + (j * 2 + v) * n;
        hn::Store(change(j, hn::Load(d, target)), d, target);
      }
    };
    if (h_.mask != nullptr) {
      const auto own = hn::Load(d, s_.factor + v * n);
      over(0, count, [&](std::int64_t j, Vector score) HWY_ATTR {
        const auto added = has_key_mask() ? hn::Set(d, s_.mask[j]) : hn::Load(d, s_.mask + (j * 2 + v) * n);
        return hn::MulAdd(score, own, added);
      });
    }
    over(first_hidden(q, key, count), count,
         [&](std::int64_t j, Vector score) HWY_ATTR { return hide_later(q, key + j, v, score); });
    over(count, round_up(count, kGroup),
         [&](std::int64_t /*j*/, Vector /*score*/) HWY_ATTR { return hn::Set(d, kLowest); });
  }

  /// Weights of one vector of queries as integers, relative to the block's own largest score; returns what the block's
  /// sums are multiplied by.
  HWY_INLINE Vector weigh(int v, std::int64_t count) {
    const Full d;
    const Integers di;
    const std::int64_t n = lanes();
    const float* scores = s_.scores + v * n;
    const std::int64_t padded = round_up(count, kGroup);
    auto a = hn::Load(d, scores);
    auto b = a;
    for (std::int64_t j = 0; j < padded; j += 2) {  // of a NaN the sum of weights tells
      a = hn::Max(hn::Load(d, scores + j * 2 * n), a);
      b = hn::Max(hn::Load(d, scores + (j + 1) * 2 * n), b);
    }
    const auto own = factor(v);
    const auto largest = hn::Mul(hn::Max(a, b), own);
    const auto lowest = hn::Set(d, kLowest);
    // Where nothing is visible any finite number makes every weight 0.
    const auto hidden = hn::Eq(largest, lowest);
    const auto base = hn::IfThenElse(hidden, hn::Zero(d), largest);
    auto exact = hn::Zero(d);
    auto used = hn::Zero(di);
    auto* target = reinterpret_cast<std::int32_t*>(s_.weights) + v * n;
    for (std::int64_t j = 0; j < padded; j += kGroup) {
      Sums whole[kGroup];
      for (std::int64_t k = 0; k < kGroup; ++k) {
        // Rounded as `largest` was, so that no weight grows beyond the limit however large scores are.
        const auto score = hn::Mul(hn::Load(d, scores + (j + k) * 2 * n), own);
        const auto weight = exp2_rough(hn::Sub(score, base), kNarrowWeightLimit);
        exact = hn::Add(exact, weight);
        whole[k] = hn::NearestInt(weight);
      }
      const auto low = hn::Or(whole[0], hn::ShiftLeft<8>(whole[1]));
      const auto group = hn::Or(low, hn::Or(hn::ShiftLeft<16>(whole[2]), hn::ShiftLeft<24>(whole[3])));
      used = add_products(used, group, hn::Set(di, 0x01010101));
      hn::Store(group, di, target + j / kGroup * 2 * n);
    }

    const auto before = hn::Load(d, s_.center + v * n);
    const auto after = hn::Max(before, largest);  // x86: the second where one is NaN
    // Exactly 1 where nothing changes: over many blocks anything else would grow.
    const auto same = hn::Eq(before, after);
    const auto shrink = hn::IfThenElse(same, hn::Set(d, 1.0F), exp2_negative(hn::Sub(before, after)));
    const auto share = hn::IfThenElse(hidden, hn::Zero(d), exp2_negative(hn::Sub(largest, after)));
    hn::Store(after, d, s_.center + v * n);
    add_up(s_.total + v * n, shrink, hn::Mul(exact, share));
    add_up(s_.used + v * n, shrink, hn::Mul(hn::ConvertTo(d, used), share));
    if (!hn::AllTrue(d, same)) {
      for (std::int64_t c = 0; c < s_.value_width; ++c) {
        float* sums = s_.sums + (c * 2 + v) * n;
        hn::Store(hn::Mul(hn::Load(d, sums), shrink), d, sums);
      }
    }
    return share;
  }

  static HWY_INLINE void add_up(float* total, Vector shrink, Vector sum) {
    const Full d;
    hn::Store(hn::MulAdd(hn::Load(d, total), shrink, sum), d, total);
  }

  void store_result(const Block& q) const {
    float factors[kInt8Queries];
    float lses[kInt8Queries];
    for (std::int64_t i = 0; i < 2 * lanes(); ++i) {
      const float total = s_.total[i];  // of what is no number no integer tells
      factors[i] = std::isnan(total) ? total : s_.used[i] == 0 ? 0.0F : 1.0F / s_.used[i];
      lses[i] = total == 0 ? kLowest : (s_.center[i] - kLog2Weights) * kLn2 + std::log(total);
    }
    store(q, 2, s_.sums, factors, lses);
  }

  const Int8Scratch s_;
  std::byte* const memory_;  // all of the scratch
};

void Int8Run(const FlashHeads& heads, const std::byte* packed, std::int64_t first, std::int64_t last,
             std::byte* memory) {
  Int8(heads, Int8Scratch(memory, heads.head_dim, heads.value_dim), memory).run(packed, first, last);
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(Int8Run);

FlashInt8 flash_int8_simd() {
  const auto run = [](const FlashHeads& heads, const std::byte* packed, std::int64_t first, std::int64_t last,
                      std::byte* scratch) {
    HWY_DYNAMIC_DISPATCH(Int8Run)
    (heads, packed, first, last, scratch);
  };
  return {query_block(flash_block_queries()), run};
}

}  // namespace rondo::cpu
#endif
