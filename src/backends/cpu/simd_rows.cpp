#include "backends/cpu/simd_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_rows.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/row_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

void Activation(ActivationKind kind, const RowMap& x, const RowMap& y, RowRange rows) {
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i)
                                HWY_ATTR { store_float(d, activate(d, kind, load_float(d, in + i)), out + i); });
    }
  });
}

void Binary(BinaryKind kind, const RowMap& a, const RowMap& b, std::int64_t period, const RowMap& y, RowRange rows) {
  with_element(a.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* left = a.row<const T>(r);
      const T* right = b.row<const T>(r % period);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto u = load_float(d, left + i);
        const auto v = load_float(d, right + i);
        store_float(d, kind == BinaryKind::add ? hn::Add(u, v) : hn::Mul(u, v), out + i);
      });
    }
  });
}

void Cast(const RowMap& x, const RowMap& y, RowRange rows) {
  with_element(x.dtype(), [&](auto source) HWY_ATTR {
    with_element(y.dtype(), [&](auto target) HWY_ATTR {
      using S = decltype(source);
      using T = decltype(target);
      for (std::int64_t r = rows.begin; r < rows.end; ++r) {
        const S* in = x.row<const S>(r);
        T* out = y.row<T>(r);
        for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR { store_float(d, load_float(d, in + i), out + i); });
      }
    });
  });
}

/// Rows are summed in float32 in blocks of 64, blocks in float64: a picture has a million rows.
template <class Term>
HWY_INLINE void add_channels(double* sums, RowRange rows, const Term& term) {
  constexpr std::int64_t kBlock = 64;
  std::vector<float> block(static_cast<std::size_t>(rows.width));
  for (std::int64_t first = rows.begin; first < rows.end; first += kBlock) {
    std::fill(block.begin(), block.end(), 0.0F);
    for (std::int64_t r = first; r < std::min(first + kBlock, rows.end); ++r) {
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        hn::StoreU(hn::Add(hn::LoadU(d, block.data() + i), term(d, r, i)), d, block.data() + i);
      });
    }
    for (std::int64_t i = 0; i < rows.width; ++i) sums[i] += static_cast<double>(block[i]);
  }
}

void ChannelSums(const RowMap& x, double* sums, RowRange rows) {
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    add_channels(sums, rows,
                 [&](auto d, std::int64_t r, std::int64_t i) HWY_ATTR { return load_float(d, x.row<const T>(r) + i); });
  });
}

void ChannelSquareSums(const RowMap& x, const float* mean, double* sums, RowRange rows) {
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    add_channels(sums, rows, [&](auto d, std::int64_t r, std::int64_t i) HWY_ATTR {
      const auto off = hn::Sub(load_float(d, x.row<const T>(r) + i), hn::LoadU(d, mean + i));
      return hn::Mul(off, off);
    });
  });
}

void ChannelAffine(const RowMap& x, const float* scale, const float* shift, const RowMap& y, RowRange rows) {
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    for (std::int64_t r = rows.begin; r < rows.end; ++r) {
      const T* in = x.row<const T>(r);
      T* out = y.row<T>(r);
      for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
        store_float(d, hn::MulAdd(load_float(d, in + i), hn::LoadU(d, scale + i), hn::LoadU(d, shift + i)), out + i);
      });
    }
  });
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(Activation);
HWY_EXPORT(Binary);
HWY_EXPORT(Cast);
HWY_EXPORT(ChannelSums);
HWY_EXPORT(ChannelSquareSums);
HWY_EXPORT(ChannelAffine);

void activation_rows(ActivationKind kind, const RowMap& x, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Activation)(kind, x, y, rows);
}
void binary_rows(BinaryKind kind, const RowMap& a, const RowMap& b, std::int64_t period, const RowMap& y,
                 RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Binary)(kind, a, b, period, y, rows);
}
void cast_rows(const RowMap& x, const RowMap& y, RowRange rows) { HWY_DYNAMIC_DISPATCH(Cast)(x, y, rows); }
void channel_sums(const RowMap& x, double* sums, RowRange rows) { HWY_DYNAMIC_DISPATCH(ChannelSums)(x, sums, rows); }
void channel_square_sums(const RowMap& x, const float* mean, double* sums, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(ChannelSquareSums)(x, mean, sums, rows);
}
void channel_affine(const RowMap& x, const float* scale, const float* shift, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(ChannelAffine)(x, scale, shift, y, rows);
}

}  // namespace rondo::cpu
#endif  // HWY_ONCE
