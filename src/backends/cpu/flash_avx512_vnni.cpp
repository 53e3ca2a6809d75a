// Flash attention in 8 bits with the dot products of AVX-512 VNNI. Compiled for that level alone; called only where the
// CPU has it.
//
// Scores stand transposed, [keys][queries], as in the other flash kernels, so that queries are what the lanes hold:
// they are the unsigned operand (their zero, 128, is taken from the sums by a constant for each key), keys and
// values the signed one. Keys and values are quantised and packed once for all chunks of queries.
//
// Budget at head dim 128 on Zen 4 (a dot product of 64 multiply-adds a cycle): a vector of 16 scores takes 64 of them
// in the two products, where bfloat16 takes 128; softmax and rounding to integers take some 17 instructions more, which
// partly run beside.
#include "backends/cpu/flash_int8.h"

#include "backends/cpu/flash_blocks-inl.h"
#include "backends/cpu/flash_int8-inl.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kKeys = kKeysOfBlock;
constexpr std::int64_t kRows = kInt8Rows;
constexpr std::int64_t kGroup = kInt8Group;
constexpr Int8Block kQueries{kBlock, kInt8Limit, kInt8Limit + 1};
constexpr float kLog2Weights = 7.99435343685886F;  // log2(kWeightLimit)

/// The low bytes of four vectors, which have nothing above them, side by side in each lane.
inline __m512i join_bytes(const __m512i* whole) {
  const __m512i low = _mm512_or_si512(whole[0], _mm512_slli_epi32(whole[1], 8));
  return _mm512_or_si512(low, _mm512_or_si512(_mm512_slli_epi32(whole[2], 16), _mm512_slli_epi32(whole[3], 24)));
}

/// Sums of 4 x `steps` products for `rows` (a multiple of 8) rows of `a` and 32 columns of `b` [step][32][4].
/// finish(row, half of the columns, sums) takes each vector of them; row r begins with init[r].
template <class Finish>
inline void multiply(const std::int8_t* a, std::int64_t row_stride, std::int64_t step_stride, const std::uint8_t* b,
                     std::int64_t steps, std::int64_t rows, const std::int32_t* init, const Finish& finish) {
  for (std::int64_t first = 0; first < rows; first += kRows) {
    __m512i sums[kRows][2];
    for (std::int64_t r = 0; r < kRows; ++r)
      sums[r][0] = sums[r][1] = init == nullptr ? _mm512_setzero_si512() : _mm512_set1_epi32(init[first + r]);
    const std::int8_t* rows_of_a = a + first * row_stride;
    for (std::int64_t step = 0; step < steps; ++step) {
      const __m512i left = _mm512_load_si512(b + step * 128);
      const __m512i right = _mm512_load_si512(b + step * 128 + 64);
      for (std::int64_t r = 0; r < kRows; ++r) {
        const void* group = rows_of_a + r * row_stride + step * step_stride;
        const __m512i x = _mm512_set1_epi32(*static_cast<const std::int32_t*>(group));
        sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], left, x);
        sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], right, x);
      }
    }
    for (std::int64_t r = 0; r < kRows; ++r) {
      finish(first + r, 0, sums[r][0]);
      finish(first + r, 1, sums[r][1]);
    }
  }
}

class Flash : FlashBlocks {
 public:
  Flash(const FlashHeads& heads, std::byte* memory)
      : FlashBlocks(heads), s_(memory, heads.head_dim, heads.value_dim), memory_(memory) {}

  void run(const std::byte* packed, std::int64_t first, std::int64_t last) {
    for (std::int64_t b = first; b < last; ++b) {
      const Block q = block(b);
      flash_int8_load_queries(h_, q.head, q.first, q.count, kQueries, memory_);
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
  void attend(const Block& q, const PackedInt8& keys, std::int64_t key, std::int64_t count) {
    multiply(keys.keys, keys.width, kGroup, s_.queries, keys.width / kGroup, round_up(count, kRows), keys.zeros,
             [&](std::int64_t row, std::int64_t v, __m512i sums) {
               const __m512 score = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(keys.key_scales[row]));
               _mm512_store_ps(s_.scores + row * kBlock + v * 16, score);
             });
    const __m512 own[2] = {_mm512_load_ps(s_.factor), _mm512_load_ps(s_.factor + 16)};
    for (std::int64_t j = 0; j < round_up(count, kRows); j += kStep)
      hide(s_.scores + j * kBlock, q, key + j, std::min(kStep, std::max<std::int64_t>(0, count - j)), own);
    __m512 share[2];
    for (std::int64_t v = 0; v < 2; ++v) share[v] = weigh(v, count, adds_mask_ ? _mm512_set1_ps(1.0F) : own[v]);
    add_values(keys, count, share);
  }

  /// Weights of one half of the queries in 8 bits, relative to the block's own largest score; returns what the block's
  /// sums are multiplied by.
  __m512 weigh(std::int64_t v, std::int64_t count, __m512 factor) {
    const float* scores = s_.scores + v * 16;
    const std::int64_t padded = round_up(count, kGroup);  // what is beyond `count` is hidden
    __m512 a = _mm512_load_ps(scores);
    __m512 b = a;
    for (std::int64_t j = 0; j < padded; j += 2) {  // of a NaN the sum of weights tells
      a = _mm512_max_ps(_mm512_load_ps(scores + j * kBlock), a);
      b = _mm512_max_ps(_mm512_load_ps(scores + (j + 1) * kBlock), b);
    }
    const __m512 largest = _mm512_mul_ps(_mm512_max_ps(a, b), factor);
    const __m512 lowest = _mm512_set1_ps(kLowest);
    // Where nothing is visible any finite number makes every weight 0.
    const __mmask16 visible = _mm512_cmp_ps_mask(largest, lowest, _CMP_NEQ_UQ);
    const __m512 base = _mm512_maskz_mov_ps(visible, largest);
    __m512 exact = _mm512_setzero_ps();
    __m512i used = _mm512_setzero_si512();
    std::uint8_t* target = s_.weights + v * 64;
    for (std::int64_t j = 0; j < padded; j += kGroup) {
      __m512i whole[kGroup];
      for (int k = 0; k < kGroup; ++k) {
        const __m512 score = _mm512_load_ps(scores + (j + k) * kBlock);
        // Rounded as `largest` was, so that no weight grows beyond the limit however large scores are.
        const __m512 weight = exp2_rough(_mm512_sub_ps(_mm512_mul_ps(score, factor), base), kWeightLimit);
        exact = _mm512_add_ps(exact, weight);
        whole[k] = _mm512_min_epi32(_mm512_cvtps_epi32(weight), _mm512_set1_epi32(kWeightLimit));
      }
      const __m512i group = join_bytes(whole);
      used = _mm512_dpbusd_epi32(used, group, _mm512_set1_epi32(0x01010101));
      _mm512_store_si512(target + j / kGroup * 128, group);
    }

    float* center = s_.center + v * 16;
    float* total = s_.total + v * 16;
    float* sum = s_.used + v * 16;
    const __m512 before = _mm512_load_ps(center);
    const __m512 after = _mm512_max_ps(before, largest);  // the second where one is NaN
    const __mmask16 begun = _mm512_cmp_ps_mask(before, lowest, _CMP_NEQ_UQ);
    // Exactly 1 where nothing changes: over many blocks anything else would grow.
    const __mmask16 same = _mm512_cmp_ps_mask(before, after, _CMP_EQ_OQ);
    const __m512 shrink = _mm512_mask_mov_ps(_mm512_maskz_mov_ps(begun, exp2_rough(_mm512_sub_ps(before, after))), same,
                                             _mm512_set1_ps(1.0F));
    const __m512 share = _mm512_maskz_mov_ps(visible, exp2_rough(_mm512_sub_ps(largest, after)));
    _mm512_store_ps(center, after);
    _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_load_ps(total), shrink, _mm512_mul_ps(exact, share)));
    _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), shrink, _mm512_mul_ps(_mm512_cvtepi32_ps(used), share)));
    const __mmask16 raised = _mm512_cmp_ps_mask(before, after, _CMP_NEQ_UQ) & begun;
    if (raised != 0) {
      for (std::int64_t c = 0; c < s_.value_width; ++c) {
        float* sums = s_.sums + c * kBlock + v * 16;
        _mm512_store_ps(sums, _mm512_mul_ps(_mm512_load_ps(sums), shrink));
      }
    }
    return share;
  }

  void add_values(const PackedInt8& keys, std::int64_t count, const __m512* share) {
    multiply(keys.values, kGroup, keys.value_width * kGroup, s_.weights, (count + kGroup - 1) / kGroup,
             keys.value_width, nullptr, [&](std::int64_t row, std::int64_t v, __m512i sums) {
               float* target = s_.sums + row * kBlock + v * 16;
               // A block that a query does not see adds nothing, whatever its values are.
               const __mmask16 sees = _mm512_cmp_ps_mask(share[v], _mm512_setzero_ps(), _CMP_NEQ_UQ);
               const __m512 factor = _mm512_maskz_mul_ps(sees, share[v], _mm512_set1_ps(keys.value_scales[row]));
               _mm512_store_ps(target, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factor, _mm512_load_ps(target)));
             });
  }

  void store_result(const Block& q) const {
    for (std::int64_t v = 0; v * 16 < q.count; ++v) {
      const std::int64_t rows = std::min<std::int64_t>(16, q.count - v * 16);
      for (std::int64_t c = 0; c < h_.value_dim; c += 16) {
        Rows x;
        for (std::int64_t r = 0; r < 16; ++r) x[r] = _mm512_load_si512(s_.sums + (c + r) * kBlock + v * 16);
        transpose(x);
        for (std::int64_t r = 0; r < rows; ++r) {
          const float used = s_.used[v * 16 + r];
          const float total = s_.total[v * 16 + r];  // of what is no number no integer tells
          const __m512 inverse = _mm512_set1_ps(std::isnan(total) ? total : used == 0 ? 0.0F : 1.0F / used);
          const std::int64_t index = q.head * h_.output_head_stride + (q.first + v * 16 + r) * h_.output_stride;
          store_floats(h_.output_dtype, _mm512_mul_ps(_mm512_castsi512_ps(x[r]), inverse),
                       const_cast<void*>(element(h_.output_dtype, h_.output, index)), c, h_.value_dim - c);
        }
      }
      if (h_.lse == nullptr) continue;
      for (std::int64_t r = 0; r < rows; ++r) {
        const float total = s_.total[v * 16 + r];
        const float center = s_.center[v * 16 + r];
        h_.lse[q.head * h_.lse_head_stride + (q.first + v * 16 + r) * h_.lse_stride] =
            total == 0 ? kLowest : (center - kLog2Weights) * kLn2 + std::log(total);
      }
    }
  }

  const Int8Scratch s_;
  std::byte* const memory_;  // all of the scratch
};

void run(const FlashHeads& heads, const std::byte* packed, std::int64_t first, std::int64_t last, std::byte* scratch) {
  Flash(heads, scratch).run(packed, first, last);
}

}  // namespace

FlashInt8 flash_int8_vnni() { return {kQueries, run}; }

}  // namespace rondo::cpu
