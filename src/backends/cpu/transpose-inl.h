// Per-target transposition between rows and lanes: a vector whose lanes are rows. Included once a target.
#if defined(RONDO_BACKENDS_CPU_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RONDO_BACKENDS_CPU_TRANSPOSE_INL_H_
#undef RONDO_BACKENDS_CPU_TRANSPOSE_INL_H_
#else
#define RONDO_BACKENDS_CPU_TRANSPOSE_INL_H_
#endif

#include <algorithm>

#include "backends/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

using Full = hn::ScalableTag<float>;
using Vector = hn::Vec<Full>;

HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(Full())); }

#if HWY_HAVE_SCALABLE || HWY_TARGET == HWY_SCALAR

HWY_INLINE void rows_to_lanes(const float* rows, std::int64_t stride, std::int64_t width, float* target,
                              std::int64_t target_stride) {
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t r = 0; r < lanes(); ++r) target[i * target_stride + r] = rows[r * stride + i];
  }
}

HWY_INLINE void lanes_to_rows(const float* source, std::int64_t source_stride, std::int64_t width, float* rows,
                              std::int64_t stride) {
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t r = 0; r < lanes(); ++r) rows[r * stride + i] = source[i * source_stride + r];
  }
}

#else

/// Block b of 4 floats comes from source + b * step.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* source, std::int64_t step) {
  if constexpr (hn::MaxLanes(d) <= 4) {
    return hn::LoadU(d, source);
  } else {
    const hn::Half<D> half;
    constexpr auto kBlocks = static_cast<std::int64_t>(hn::MaxLanes(half) / 4);
    return hn::Combine(d, load_blocks(half, source + kBlocks * step, step), load_blocks(half, source, step));
  }
}

template <class D>
HWY_INLINE void store_blocks(D d, hn::Vec<D> value, float* target, std::int64_t step) {
  if constexpr (hn::MaxLanes(d) <= 4) {
    hn::StoreU(value, d, target);
  } else {
    const hn::Half<D> half;
    constexpr auto kBlocks = static_cast<std::int64_t>(hn::MaxLanes(half) / 4);
    store_blocks(half, hn::LowerHalf(half, value), target, step);
    store_blocks(half, hn::UpperHalf(half, value), target + kBlocks * step, step);
  }
}

/// Transposes the 4 x 4 matrix that block b of the four vectors makes, for each b.
HWY_INLINE void transpose_blocks(Vector (&x)[4]) {
  const Full d;
  const hn::Repartition<double, Full> pairs;
  const auto lower01 = hn::BitCast(pairs, hn::InterleaveLower(d, x[0], x[1]));
  const auto upper01 = hn::BitCast(pairs, hn::InterleaveUpper(d, x[0], x[1]));
  const auto lower23 = hn::BitCast(pairs, hn::InterleaveLower(d, x[2], x[3]));
  const auto upper23 = hn::BitCast(pairs, hn::InterleaveUpper(d, x[2], x[3]));
  x[0] = hn::BitCast(d, hn::InterleaveLower(pairs, lower01, lower23));
  x[1] = hn::BitCast(d, hn::InterleaveUpper(pairs, lower01, lower23));
  x[2] = hn::BitCast(d, hn::InterleaveLower(pairs, upper01, upper23));
  x[3] = hn::BitCast(d, hn::InterleaveUpper(pairs, upper01, upper23));
}

/// [lanes rows][stride] -> [width][lanes] at `target`, whose rows are `target_stride` apart. `stride` is a multiple
/// of 4.
HWY_INLINE void rows_to_lanes(const float* rows, std::int64_t stride, std::int64_t width, float* target,
                              std::int64_t target_stride) {
  const Full d;
  for (std::int64_t i = 0; i < width; i += 4) {
    Vector x[4];
    for (std::int64_t r = 0; r < 4; ++r) x[r] = load_blocks(d, rows + r * stride + i, 4 * stride);
    transpose_blocks(x);
    for (std::int64_t r = 0; r < std::min<std::int64_t>(4, width - i); ++r)
      hn::Store(x[r], d, target + (i + r) * target_stride);
  }
}

/// The inverse: [width][lanes] -> [lanes rows][stride]
HWY_INLINE void lanes_to_rows(const float* source, std::int64_t source_stride, std::int64_t width, float* rows,
                              std::int64_t stride) {
  const Full d;
  for (std::int64_t i = 0; i < width; i += 4) {
    Vector x[4];
    for (std::int64_t r = 0; r < 4; ++r)
      x[r] = i + r < width ? hn::Load(d, source + (i + r) * source_stride) : hn::Zero(d);
    transpose_blocks(x);
    for (std::int64_t r = 0; r < 4; ++r) store_blocks(d, x[r], rows + r * stride + i, 4 * stride);
  }
}

#endif

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
