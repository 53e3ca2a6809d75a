#include "backends/cpu/simd_norms.h"

#include <array>
#include <cmath>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/simd_norms.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/row_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

/// A map's rows as float32. A row that is not float32 is widened once for all rows of x that it meets in a row.
class WideRows {
 public:
  WideRows(const RowMap& map, RowRange rows)
      : cursor_(map, rows.begin), dtype_(map.dtype()), wide_(dtype_ == DType::f32 ? 0 : rows.width) {}

  const float* row() {
    if (dtype_ == DType::f32) return cursor_.row<const float>();
    if (cursor_.row<const std::byte>() != loaded_) {
      loaded_ = cursor_.row<const std::byte>();
      with_element(dtype_, [&](auto element) HWY_ATTR {
        using T = decltype(element);
        const T* source = cursor_.row<const T>();
        for_lanes(static_cast<std::int64_t>(wide_.size()),
                  [&](auto d, std::int64_t i) HWY_ATTR { hn::StoreU(load_float(d, source + i), d, wide_.data() + i); });
      });
    }
    return wide_.data();
  }
  void next() { cursor_.next(); }

 private:
  RowCursor cursor_;
  DType dtype_;
  std::vector<float> wide_;
  const std::byte* loaded_ = nullptr;
};

/// Calls body(in, out) for each row, as x's element type.
template <class Body>
HWY_INLINE void over_rows(const RowMap& x, const RowMap& y, RowRange rows, const Body& body) {
  with_element(x.dtype(), [&](auto element) HWY_ATTR {
    using T = decltype(element);
    RowCursor in(x, rows.begin);
    RowCursor out(y, rows.begin);
    for (std::int64_t r = rows.begin; r < rows.end; ++r, in.next(), out.next()) body(in.row<const T>(), out.row<T>());
  });
}

/// 1 / sqrt(mean square + eps)
template <class T>
HWY_INLINE float inverse_rms(const T* x, std::int64_t width, float eps) {
  return 1.0F / std::sqrt(square_sum_row(x, 0.0F, width) / static_cast<float>(width) + eps);
}

/// (x - mean) * scale is the normed row.
struct Standard {
  float mean;
  float scale;
};

template <class T>
HWY_INLINE Standard standard_of(const T* x, std::int64_t width, float eps) {
  const auto count = static_cast<float>(width);
  const float rough = sum_row(x, width) / count;
  const float mean = rough + mean_offset_row(x, rough, width);
  return {mean, 1.0F / std::sqrt(square_sum_row(x, mean, width) / count + eps)};
}

template <class D, class T>
HWY_INLINE hn::Vec<D> standardize(D d, const T* x, const Standard& standard, const float* weight, const float* bias,
                                  std::int64_t i) {
  const auto value = hn::Mul(hn::Sub(load_float(d, x + i), hn::Set(d, standard.mean)), hn::Set(d, standard.scale));
  return weight == nullptr ? value : hn::MulAdd(value, hn::LoadU(d, weight + i), hn::LoadU(d, bias + i));
}

void RmsNorm(const RowMap& x, const float* weight, float eps, const RowMap& y, RowRange rows) {
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    const float scale = inverse_rms(in, rows.width, eps);
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      auto value = hn::Mul(load_float(d, in + i), hn::Set(d, scale));
      if (weight != nullptr) value = hn::Mul(value, hn::LoadU(d, weight + i));
      store_float(d, value, out + i);
    });
  });
}

void AddRmsNorm(const RowMap& x, const RowMap& residual, const float* weight, float eps, const RowMap& normed,
                const RowMap& sum, RowRange rows) {
  RowCursor base(residual, rows.begin);
  RowCursor total(sum, rows.begin);
  std::vector<float> wide(static_cast<std::size_t>(rows.width));
  over_rows(x, normed, rows, [&](const auto* in, auto* out) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(out)>;
    const T* other = base.row<const T>();
    T* added = total.row<T>();
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      const auto value = hn::Add(load_float(d, in + i), load_float(d, other + i));
      hn::StoreU(value, d, wide.data() + i);
      store_float(d, value, added + i);
    });
    const float scale = inverse_rms(wide.data(), rows.width, eps);
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      auto value = hn::Mul(hn::LoadU(d, wide.data() + i), hn::Set(d, scale));
      if (weight != nullptr) value = hn::Mul(value, hn::LoadU(d, weight + i));
      store_float(d, value, out + i);
    });
    base.next();
    total.next();
  });
}

void LayerNorm(const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& y, RowRange rows) {
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    const Standard standard = standard_of(in, rows.width, eps);
    for_lanes(rows.width, [&](auto d, std::int64_t i)
                              HWY_ATTR { store_float(d, standardize(d, in, standard, weight, bias, i), out + i); });
  });
}

void Modulate(const RowMap& x, const RowMap& scale, const RowMap& shift, const RowMap& y, RowRange rows) {
  WideRows by(scale, rows);
  WideRows plus(shift, rows);
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    const float* factor = by.row();
    const float* added = plus.row();
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      const auto times = hn::Add(hn::LoadU(d, factor + i), hn::Set(d, 1.0F));
      store_float(d, hn::MulAdd(load_float(d, in + i), times, hn::LoadU(d, added + i)), out + i);
    });
    by.next();
    plus.next();
  });
}

void LayerNormModulate(const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& scale,
                       const RowMap& shift, const RowMap& y, RowRange rows) {
  WideRows by(scale, rows);
  WideRows plus(shift, rows);
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    const float* factor = by.row();
    const float* added = plus.row();
    const Standard standard = standard_of(in, rows.width, eps);
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      const auto times = hn::Add(hn::LoadU(d, factor + i), hn::Set(d, 1.0F));
      const auto value = standardize(d, in, standard, weight, bias, i);
      store_float(d, hn::MulAdd(value, times, hn::LoadU(d, added + i)), out + i);
    });
    by.next();
    plus.next();
  });
}

void GatedAdd(const RowMap& residual, const RowMap& gate, const RowMap& x, const RowMap& y, RowRange rows) {
  RowCursor base(residual, rows.begin);
  WideRows by(gate, rows);
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    const auto* kept = base.row<std::remove_pointer_t<decltype(out)>>();
    const float* factor = by.row();
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      store_float(d, hn::MulAdd(hn::LoadU(d, factor + i), load_float(d, in + i), load_float(d, kept + i)), out + i);
    });
    base.next();
    by.next();
  });
}

/// One value for each element from one for each pair.
void spread_table(RotaryMode mode, const float* table, std::int64_t half, float* target) {
  for (std::int64_t i = 0; i < half; ++i) {
    target[mode == RotaryMode::half ? i : 2 * i] = table[i];
    target[mode == RotaryMode::half ? i + half : 2 * i + 1] = table[i];
  }
}

/// The tables' rows with one value for each element.
class RotationRows {
 public:
  RotationRows(const Rotation& rotation, RowRange rows)
      : cos_(rotation.cos, rows.begin),
        sin_(rotation.sin, rows.begin),
        mode_(rotation.mode),
        half_(rows.width / 2),
        wide_(rotation.shared ? static_cast<std::size_t>(2 * rows.width) : 0) {}

  /// Cosines and sines.
  std::pair<const float*, const float*> row() {
    const auto* cos = cos_.row<const float>();
    const auto* sin = sin_.row<const float>();
    if (wide_.empty()) return {cos, sin};
    if (cos != loaded_) {
      spread_table(mode_, cos, half_, wide_.data());
      spread_table(mode_, sin, half_, wide_.data() + 2 * half_);
      loaded_ = cos;
    }
    return {wide_.data(), wide_.data() + 2 * half_};
  }
  void next() {
    cos_.next();
    sin_.next();
  }

 private:
  RowCursor cos_;
  RowCursor sin_;
  RotaryMode mode_;
  std::int64_t half_;
  std::vector<float> wide_;
  const float* loaded_ = nullptr;
};

/// Calls body(tag, index) for whole vectors; the last overlaps the one before where the row is no multiple of a vector:
/// its elements are computed twice, to the same values.
template <class Body>
HWY_INLINE void for_overlapping_lanes(std::int64_t width, const Body& body) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (width < lanes) {
    const hn::CappedTag<float, 1> one;
    for (std::int64_t i = 0; i < width; ++i) body(one, i);
    return;
  }
  for (std::int64_t i = 0; i < width; i += lanes) body(d, i + lanes <= width ? i : width - lanes);
}

/// x of a rotation: a row times `scale` and, where there is one, `weight`.
template <class T>
struct ScaledRow {
  template <class D>
  HWY_INLINE hn::Vec<D> load(D d, std::int64_t i) const {
    const auto value = hn::Mul(load_float(d, in + i), hn::Set(d, scale));
    return weight == nullptr ? value : hn::Mul(value, hn::LoadU(d, weight + i));
  }
  const T* in;
  float scale;
  const float* weight;
};

template <class T>
HWY_INLINE void turn_halves(const ScaledRow<T>& x, const float* cos, const float* sin, std::int64_t half, T* out) {
  for_overlapping_lanes(half, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto a = x.load(d, i);
    const auto b = x.load(d, i + half);
    store_float(d, hn::NegMulAdd(b, hn::LoadU(d, sin + i), hn::Mul(a, hn::LoadU(d, cos + i))), out + i);
    store_float(d, hn::MulAdd(a, hn::LoadU(d, sin + half + i), hn::Mul(b, hn::LoadU(d, cos + half + i))),
                out + half + i);
  });
}

template <class T>
HWY_INLINE void turn_pairs(const ScaledRow<T>& x, const float* cos, const float* sin, std::int64_t width, T* out) {
  const hn::CappedTag<float, 1> one;
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no pairs of lanes to swap
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (width >= lanes) {
    const hn::RebindToUnsigned<decltype(d)> bits;
    const hn::Repartition<std::uint64_t, decltype(d)> pairs;
    const auto negate_first = hn::BitCast(d, hn::BitCast(bits, hn::Set(pairs, std::uint64_t{0x80000000U})));
    for (; i < width; i += lanes) {
      const std::int64_t at = std::min(i, width - lanes);
      const auto value = x.load(d, at);
      const auto turned = hn::Xor(hn::Shuffle2301(value), negate_first);
      store_float(d, hn::MulAdd(turned, hn::LoadU(d, sin + at), hn::Mul(value, hn::LoadU(d, cos + at))), out + at);
    }
  }
#endif
  for (; i < width; i += 2) {
    const auto a = x.load(one, i);
    const auto b = x.load(one, i + 1);
    store_float(one, hn::NegMulAdd(b, hn::LoadU(one, sin + i), hn::Mul(a, hn::LoadU(one, cos + i))), out + i);
    store_float(one, hn::MulAdd(a, hn::LoadU(one, sin + i + 1), hn::Mul(b, hn::LoadU(one, cos + i + 1))), out + i + 1);
  }
}

template <bool kNorm>
HWY_INLINE void turn_rows(const RowMap& x, const float* weight, float eps, const Rotation& rotation, const RowMap& y,
                          RowRange rows) {
  RotationRows tables(rotation, rows);
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(out)>;
    const auto [cos, sin] = tables.row();
    const ScaledRow<T> row{in, kNorm ? inverse_rms(in, rows.width, eps) : 1.0F, weight};
    if (rotation.mode == RotaryMode::half) {
      turn_halves(row, cos, sin, rows.width / 2, out);
    } else {
      turn_pairs(row, cos, sin, rows.width, out);
    }
    tables.next();
  });
}

void Rope(const RowMap& x, const Rotation& rotation, const RowMap& y, RowRange rows) {
  turn_rows<false>(x, nullptr, 0.0F, rotation, y, rows);
}

void RmsNormRope(const RowMap& x, const float* weight, float eps, const Rotation& rotation, const RowMap& y,
                 RowRange rows) {
  turn_rows<true>(x, weight, eps, rotation, y, rows);
}

void Swiglu(const RowMap& x, const RowMap& y, RowRange rows) {
  over_rows(x, y, rows, [&](const auto* in, auto* out) HWY_ATTR {
    for_lanes(rows.width, [&](auto d, std::int64_t i) HWY_ATTR {
      const auto gate = load_float(d, in + rows.width + i);
      store_float(d, hn::Mul(load_float(d, in + i), times_sigmoid(d, gate, gate)), out + i);
    });
  });
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(RmsNorm);
HWY_EXPORT(AddRmsNorm);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(Modulate);
HWY_EXPORT(LayerNormModulate);
HWY_EXPORT(GatedAdd);
HWY_EXPORT(Rope);
HWY_EXPORT(RmsNormRope);
HWY_EXPORT(Swiglu);

void rms_norm_rows(const RowMap& x, const float* weight, float eps, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, weight, eps, y, rows);
}
void add_rms_norm_rows(const RowMap& x, const RowMap& residual, const float* weight, float eps, const RowMap& normed,
                       const RowMap& sum, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(AddRmsNorm)(x, residual, weight, eps, normed, sum, rows);
}
void layer_norm_rows(const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& y,
                     RowRange rows) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(x, weight, bias, eps, y, rows);
}
void modulate_rows(const RowMap& x, const RowMap& scale, const RowMap& shift, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Modulate)(x, scale, shift, y, rows);
}
void layer_norm_modulate_rows(const RowMap& x, const float* weight, const float* bias, float eps, const RowMap& scale,
                              const RowMap& shift, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(LayerNormModulate)(x, weight, bias, eps, scale, shift, y, rows);
}
void gated_add_rows(const RowMap& residual, const RowMap& gate, const RowMap& x, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(GatedAdd)(residual, gate, x, y, rows);
}
void rope_rows(const RowMap& x, const Rotation& rotation, const RowMap& y, RowRange rows) {
  HWY_DYNAMIC_DISPATCH(Rope)(x, rotation, y, rows);
}
void rms_norm_rope_rows(const RowMap& x, const float* weight, float eps, const Rotation& rotation, const RowMap& y,
                        RowRange rows) {
  HWY_DYNAMIC_DISPATCH(RmsNormRope)(x, weight, eps, rotation, y, rows);
}
void swiglu_rows(const RowMap& x, const RowMap& y, RowRange rows) { HWY_DYNAMIC_DISPATCH(Swiglu)(x, y, rows); }

}  // namespace rondo::cpu
#endif  // HWY_ONCE
