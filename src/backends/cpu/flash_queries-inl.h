// Per-target parts of flash attention with queries in the lanes: blocks of queries and what each sees, masks on
// transposed scores, exponentials, results. Included once a target.
#if defined(RONDO_BACKENDS_CPU_FLASH_QUERIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RONDO_BACKENDS_CPU_FLASH_QUERIES_INL_H_
#undef RONDO_BACKENDS_CPU_FLASH_QUERIES_INL_H_
#else
#define RONDO_BACKENDS_CPU_FLASH_QUERIES_INL_H_
#endif

#include <algorithm>
#include <limits>
#include <type_traits>

#include "backends/cpu/flash_attention.h"
#include "backends/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

// Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits, here with the exponent's bias.
constexpr float kRound = 12582912.0F + 127.0F;

/// 2^x for x <= 0, relative error 1.5e-7; 0 below -126. NaN stays.
HWY_INLINE Vector exp2_negative(Vector x) {
  const Full d;
  const hn::RebindToSigned<Full> di;
  const auto clamped = hn::Max(hn::Set(d, -127.0F), x);  // in this order x86 keeps the NaN
  const auto shifted = hn::Add(clamped, hn::Set(d, kRound));
  const auto part = hn::Sub(clamped, hn::Sub(shifted, hn::Set(d, kRound)));  // -0.5 to 0.5
  // Minimax of 2^part: relative error 7.5e-8.
  auto p = hn::Set(d, 1.327647140653220e-3F);
  p = hn::MulAdd(p, part, hn::Set(d, 9.675541570403583e-3F));
  p = hn::MulAdd(p, part, hn::Set(d, 5.550713277402183e-2F));
  p = hn::MulAdd(p, part, hn::Set(d, 2.402211971953459e-1F));
  p = hn::MulAdd(p, part, hn::Set(d, 6.931469670610623e-1F));
  p = hn::MulAdd(p, part, hn::Set(d, 1.000000071655533F));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

/// factor * 2^x for x up to some 10, relative error 7.5e-5: finer than 8 bits.
HWY_INLINE Vector exp2_rough(Vector x, float factor = 1.0F) {
  const Full d;
  const hn::RebindToSigned<Full> di;
  const auto clamped = hn::Max(hn::Set(d, -127.0F), x);  // in this order x86 keeps the NaN
  const auto shifted = hn::Add(clamped, hn::Set(d, kRound));
  const auto part = hn::Sub(clamped, hn::Sub(shifted, hn::Set(d, kRound)));  // -0.5 to 0.5
  auto p = hn::Set(d, 5.5171673e-2F * factor);
  p = hn::MulAdd(p, part, hn::Set(d, 2.42611143e-1F * factor));
  p = hn::MulAdd(p, part, hn::Set(d, 6.93260987e-1F * factor));
  p = hn::MulAdd(p, part, hn::Set(d, 9.99928072e-1F * factor));
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

/// The queries of one head that a block works on.
struct Block {
  std::int64_t head;
  std::int64_t first;
  std::int64_t count;
  std::int64_t vectors;  // 1 or 2 of lanes
};

/// A mask's row as what is added to scores to the base of 2.
template <class M>
void widen_mask(const M* source, std::int64_t count, float* target) {
  if constexpr (std::is_same_v<M, bool>) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(source);
    for_lanes(count, [&](auto d, std::int64_t j) HWY_ATTR {
      const hn::Rebind<std::uint8_t, decltype(d)> narrow;
      const hn::RebindToSigned<decltype(d)> wide;
      const auto kept = hn::PromoteTo(wide, hn::LoadU(narrow, bytes + j));
      const auto hidden = hn::RebindMask(d, hn::Eq(kept, hn::Zero(wide)));
      hn::StoreU(hn::IfThenElseZero(hidden, hn::Set(d, kLowest)), d, target + j);
    });
  } else {
    for_lanes(count, [&](auto d, std::int64_t j) HWY_ATTR {
      const auto given = load_float(d, source + j);
      // What is finite stays so: a row of float32's lowest number everywhere is the mean of all values, not nothing.
      const auto lowest = hn::Set(d, std::numeric_limits<float>::lowest());
      const auto hidden = hn::Eq(given, hn::Set(d, kLowest));
      const auto scaled = hn::Max(lowest, hn::Mul(given, hn::Set(d, kLog2E)));  // in this order x86 keeps a NaN
      hn::StoreU(hn::IfThenElse(hidden, given, scaled), d, target + j);
    });
  }
}

class FlashQueries {
 protected:
  /// `rows`: memory for lanes() rows of the widest of values and key blocks, rounded up to 4 floats.
  /// `mask`: for a block's mask, [keys][queries].
  FlashQueries(const FlashHeads& heads, float* rows, float* mask) : h_(heads), rows_(rows), mask_(mask) {}

  Block block(std::int64_t index) const {
    const std::int64_t size = 2 * lanes();
    const std::int64_t blocks = (h_.queries + size - 1) / size;
    const std::int64_t first = index % blocks * size;
    const std::int64_t count = std::min(size, h_.queries - first);
    return {index / blocks, first, count, count > lanes() ? 2 : 1};
  }

  std::int64_t visible_keys(const Block& q) const {
    if (!h_.causal) return h_.keys;
    return std::clamp<std::int64_t>(q.first + q.count + h_.keys - h_.queries, 0, h_.keys);
  }

  /// Whether the mask is one value a key, the same for all queries: then load_mask() leaves [keys].
  bool has_key_mask() const { return h_.mask != nullptr && h_.mask_query_stride == 0; }
  /// Then it leaves [keys][vectors of queries].
  bool has_lane_mask() const { return h_.mask != nullptr && h_.mask_query_stride != 0; }

  /// What is to be added to the scores of `count` keys from `key` on.
  void load_mask(const Block& q, std::int64_t vectors, std::int64_t key, std::int64_t count) const {
    switch (h_.mask_dtype) {
      case DType::boolean: return load_mask_of<bool>(q, vectors, key, count);
      case DType::f32: return load_mask_of<float>(q, vectors, key, count);
      case DType::f16: return load_mask_of<hwy::float16_t>(q, vectors, key, count);
      default: return load_mask_of<std::uint16_t>(q, vectors, key, count);
    }
  }

  /// The first of `count` keys from `key` on that not every query of the block sees; `count` when all are seen.
  std::int64_t first_hidden(const Block& q, std::int64_t key, std::int64_t count) const {
    if (!h_.causal) return count;
    return std::clamp<std::int64_t>(q.first + h_.keys - h_.queries + 1 - key, 0, count);
  }

  /// A vector of scores of key `key` with those at -infinity whose queries stand before it; `v` counts the block's
  /// vectors.
  Vector hide_later(const Block& q, std::int64_t key, int v, Vector score) const {
    const Full d;
    const auto lane = hn::Iota(d, static_cast<float>(v * lanes()));
    const auto first_to_see = hn::Set(d, static_cast<float>(key - (h_.keys - h_.queries) - q.first));
    return hn::IfThenElse(hn::Ge(lane, first_to_see), score, hn::Set(d, kLowest));
  }

  /// Writes the block's result: sums [value_dim][vectors of queries] times `factors`, and `lses`, each [queries].
  void store(const Block& q, std::int64_t vectors, const float* sums, const float* factors, const float* lses) const {
    with_element(h_.output_dtype,
                 [&](auto element) HWY_ATTR { store_as<decltype(element)>(q, vectors, sums, factors, lses); });
  }

  const FlashHeads& h_;
  float* const rows_;
  float* const mask_;

 private:
  template <class M>
  void load_mask_of(const Block& q, std::int64_t vectors, std::int64_t key, std::int64_t count) const {
    const std::int64_t n = lanes();
    const std::int64_t stride = round_up(count, 4);
    const M* head = static_cast<const M*>(h_.mask) + q.head * h_.mask_head_stride + key;
    if (h_.mask_query_stride == 0) return widen_mask(head, count, mask_);
    for (std::int64_t v = 0; v < vectors; ++v) {
      for (std::int64_t r = 0; r < n; ++r) {
        const std::int64_t query = std::min(q.first + v * n + r, h_.queries - 1);
        widen_mask(head + query * h_.mask_query_stride, count, rows_ + r * stride);
      }
      rows_to_lanes(rows_, stride, count, mask_ + v * n, vectors * n);
    }
  }

  template <class T>
  void store_as(const Block& q, std::int64_t vectors, const float* sums, const float* factors,
                const float* lses) const {
    const std::int64_t n = lanes();
    const std::int64_t stride = round_up(h_.value_dim, 4);
    for (std::int64_t v = 0; v * n < q.count; ++v) {
      lanes_to_rows(sums + v * n, vectors * n, h_.value_dim, rows_, stride);
      for (std::int64_t r = 0; r < std::min(n, q.count - v * n); ++r) {
        const std::int64_t query = q.first + v * n + r;
        const float factor = factors[v * n + r];
        T* target = static_cast<T*>(h_.output) + q.head * h_.output_head_stride + query * h_.output_stride;
        const float* row = rows_ + r * stride;
        for_lanes_twice(h_.value_dim, [&](auto tag, std::int64_t i) HWY_ATTR {
          store_float(tag, hn::Mul(hn::LoadU(tag, row + i), hn::Set(tag, factor)), target + i);
        });
        if (h_.lse != nullptr) h_.lse[q.head * h_.lse_head_stride + query * h_.lse_stride] = lses[v * n + r];
      }
    }
  }
};

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
