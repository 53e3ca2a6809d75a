// What AVX-512's flash kernels share: blocks of 32 queries, what each sees, masks on transposed scores, small vector
// helpers. Included by files that are compiled for one CPU level; everything here has internal linkage.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backends/cpu/flash_attention.h"
#include "backends/cpu/flash_scratch-inl.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kBlock = 32;  // queries
constexpr std::int64_t kStep = 32;   // keys whose scores are computed together
constexpr float kTiny = std::numeric_limits<float>::min();
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;

using Bits = std::uint16_t;  // bfloat16

// Plain arrays and loops: a template of the standard library that is not inlined might be linked, as compiled here,
// into code for lesser CPUs.
using Rows = __m512i[16];

inline void fill(float* target, std::int64_t count, float value) {
  for (std::int64_t i = 0; i < count; ++i) target[i] = value;
}

/// Transposes 16 x 16 elements of 32 bits.
inline void transpose(Rows& x) {
  Rows y;
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd);
  }
}

/// factor * 2^x for x up to some 10, relative error 7.5e-5: finer than bfloat16.
inline __m512 exp2_rough(__m512 x, float factor = 1.0F) {
  const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // x - floor(x)
  __m512 p = _mm512_set1_ps(7.80245195e-2F * factor);
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(2.26067178e-1F * factor));
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(6.95833522e-1F * factor));
  p = _mm512_fmadd_ps(p, part, _mm512_set1_ps(9.99925221e-1F * factor));
  return _mm512_scalef_ps(p, x);  // p * 2^floor(x)
}

inline __mmask16 lanes(std::int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1U << count) - 1);
}

inline void store_floats(DType dtype, __m512 values, void* row, std::int64_t first, std::int64_t count) {
  const __mmask16 real = lanes(count);
  if (dtype == DType::f32) {
    _mm512_mask_storeu_ps(static_cast<float*>(row) + first, real, values);
    return;
  }
  __m256i narrow;
  if (dtype == DType::f16) {
    narrow = _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  } else {  // to nearest even; a NaN stays one
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    narrow = _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), 16));
  }
  _mm256_mask_storeu_epi16(static_cast<Bits*>(row) + first, real, narrow);
}

inline const void* element(DType dtype, const void* base, std::int64_t index) {
  const std::int64_t size = dtype == DType::f32 ? 4 : 2;
  return static_cast<const std::byte*>(base) + index * size;
}

/// The query blocks of one call, and what each sees.
class FlashBlocks {
 protected:
  explicit FlashBlocks(const FlashHeads& heads)
      : h_(heads), adds_mask_(heads.mask != nullptr && heads.mask_dtype != DType::boolean) {}

  struct Block {
    std::int64_t head;
    std::int64_t first;
    std::int64_t count;
  };

  Block block(std::int64_t index) const {
    const std::int64_t blocks = (h_.queries + kBlock - 1) / kBlock;
    const std::int64_t first = index % blocks * kBlock;
    return {index / blocks, first, std::min(kBlock, h_.queries - first)};
  }
  std::int64_t visible_keys(const Block& q) const {
    if (!h_.causal) return h_.keys;
    return std::clamp<std::int64_t>(q.first + q.count + h_.keys - h_.queries, 0, h_.keys);
  }
  /// -infinity where a query does not see a key; `key` is the first of `count` keys of the step.
  void hide(float* scores, const Block& q, std::int64_t key, std::int64_t count, const __m512* factor) const {
    const __m512 hidden = _mm512_set1_ps(kLowest);
    if (adds_mask_) {
      add_mask(scores, q, key, count, factor);
    } else if (h_.mask != nullptr) {
      apply_boolean_mask(scores, q, key, count);
    }
    for (std::int64_t j = count; j < kStep; ++j) {
      _mm512_store_ps(scores + j * kBlock, hidden);
      _mm512_store_ps(scores + j * kBlock + 16, hidden);
    }
    const std::int64_t shift = h_.keys - h_.queries;
    if (!h_.causal || key + count - 1 <= q.first + shift) return;
    for (std::int64_t j = 0; j < count; ++j) {
      // Query q.first + i sees the key when i is at least this.
      const std::int64_t first_to_see = std::clamp<std::int64_t>(key + j - shift - q.first, 0, kBlock);
      const std::uint32_t blind = first_to_see == 32 ? ~0U : (1U << first_to_see) - 1;
      _mm512_mask_store_ps(scores + j * kBlock, static_cast<__mmask16>(blind), hidden);
      _mm512_mask_store_ps(scores + j * kBlock + 16, static_cast<__mmask16>(blind >> 16), hidden);
    }
  }

  /// The mask's row of query `query` of the block, from `key` on.
  template <class T>
  const T* mask_row(const Block& q, std::int64_t query, std::int64_t key) const {
    const std::int64_t row = std::min(q.first + query, h_.queries - 1);
    return static_cast<const T*>(h_.mask) + q.head * h_.mask_head_stride + row * h_.mask_query_stride + key;
  }

  void apply_boolean_mask(float* scores, const Block& q, std::int64_t key, std::int64_t count) const {
    const __m512 hidden = _mm512_set1_ps(kLowest);
    const __mmask32 real = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
    for (std::int64_t v = 0; v < 2; ++v) {
      alignas(64) std::uint32_t kept[16];  // bit j: the query sees key j
      for (std::int64_t r = 0; r < 16; ++r) {
        const __m256i bytes = _mm256_maskz_loadu_epi8(real, mask_row<bool>(q, v * 16 + r, key));
        kept[r] = _mm256_test_epi8_mask(bytes, bytes);
      }
      const __m512i bits = _mm512_load_si512(kept);
      for (std::int64_t j = 0; j < count; ++j) {
        const __mmask16 blind = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(static_cast<int>(1U << j)));
        _mm512_mask_store_ps(scores + j * kBlock + v * 16, blind, hidden);
      }
    }
  }

  /// scores = factor * score + mask, to the base of 2
  void add_mask(float* scores, const Block& q, std::int64_t key, std::int64_t count, const __m512* factor) const {
    for (std::int64_t first = 0; first < count; first += 16) {
      const std::int64_t columns = std::min<std::int64_t>(16, count - first);
      const auto real = static_cast<__mmask16>((1U << columns) - 1);
      for (std::int64_t v = 0; v < 2; ++v) {
        Rows x;
        for (std::int64_t r = 0; r < 16; ++r) x[r] = _mm512_castps_si512(load_mask(q, v * 16 + r, key + first, real));
        transpose(x);
        for (std::int64_t j = 0; j < columns; ++j) {
          float* score = scores + (first + j) * kBlock + v * 16;
          // What is finite stays so, as in flash_attention.cpp.
          const __m512 given = _mm512_castsi512_ps(x[j]);
          const __mmask16 seen = _mm512_cmp_ps_mask(given, _mm512_set1_ps(kLowest), _CMP_NEQ_UQ);
          const __m512 scaled = _mm512_mul_ps(given, _mm512_set1_ps(kLog2E));
          const __m512 added =
              _mm512_mask_max_ps(given, seen, _mm512_set1_ps(-std::numeric_limits<float>::max()), scaled);
          _mm512_store_ps(score, _mm512_fmadd_ps(_mm512_load_ps(score), factor[v], added));
        }
      }
    }
  }

  __m512 load_mask(const Block& q, std::int64_t query, std::int64_t key, __mmask16 real) const {
    if (h_.mask_dtype == DType::f32) return _mm512_maskz_loadu_ps(real, mask_row<float>(q, query, key));
    const __m256i narrow = _mm256_maskz_loadu_epi16(real, mask_row<Bits>(q, query, key));
    if (h_.mask_dtype == DType::f16) return _mm512_cvtph_ps(narrow);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
  }

  const FlashHeads& h_;
  const bool adds_mask_;
};

}  // namespace
}  // namespace rondo::cpu
