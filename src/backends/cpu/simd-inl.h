// Per-target helpers for Highway code: loads and stores that widen bfloat16, loops with tails. Included once a target.
#if defined(RONDO_BACKENDS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RONDO_BACKENDS_CPU_SIMD_INL_H_
#undef RONDO_BACKENDS_CPU_SIMD_INL_H_
#else
#define RONDO_BACKENDS_CPU_SIMD_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "core/float_formats.h"
#include "rondo/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// bfloat16 is carried as its bits, in std::uint16_t, e4m3 in this.
enum class E4m3 : std::uint8_t {};

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const float* source) {
  return hn::LoadU(d, source);
}

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const std::uint16_t* source) {
  const hn::Rebind<std::uint16_t, D> narrow;
  const hn::Rebind<std::uint32_t, D> wide;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(wide, hn::LoadU(narrow, source))));
}

/// Numbers only: the two NaN of the format are not told apart.
template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const E4m3* source) {
  const hn::Rebind<std::uint8_t, D> narrow;
  const hn::RebindToSigned<D> wide;
  const auto bits = hn::PromoteTo(wide, hn::LoadU(narrow, reinterpret_cast<const std::uint8_t*>(source)));
  const auto magnitude = hn::And(bits, hn::Set(wide, 0x7f));
  // The exponents of the two formats are 120 apart.
  const auto normal = hn::BitCast(d, hn::Add(hn::ShiftLeft<20>(magnitude), hn::Set(wide, 120 << 23)));
  // Below 2^-6 this has put a leading one that is not there, at half its place.
  const auto subnormal = hn::Sub(hn::Add(normal, normal), hn::Set(d, 0x1p-6F));
  const auto is_normal = hn::RebindMask(d, hn::Gt(magnitude, hn::Set(wide, 7)));
  const auto sign = hn::ShiftLeft<24>(hn::And(bits, hn::Set(wide, 0x80)));
  return hn::Or(hn::IfThenElse(is_normal, normal, subnormal), hn::BitCast(d, sign));
}

// Where the CPU has no instructions for float16, Highway 1.0.3 truncates and knows no infinity.
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SCALAR

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const hwy::float16_t* source) {
  HWY_ALIGN float values[hn::MaxLanes(d)];
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) values[i] = f16_to_float(source[i].bits);
  return hn::Load(d, values);
}

template <class D>
HWY_INLINE void store_float(D d, hn::Vec<D> value, hwy::float16_t* target) {
  HWY_ALIGN float values[hn::MaxLanes(d)];
  hn::Store(value, d, values);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) target[i].bits = float_to_f16(values[i]);
}

#else

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const hwy::float16_t* source) {
  const hn::Rebind<hwy::float16_t, D> narrow;
  return hn::PromoteTo(d, hn::LoadU(narrow, source));
}

template <class D>
HWY_INLINE void store_float(D /*d*/, hn::Vec<D> value, hwy::float16_t* target) {
  const hn::Rebind<hwy::float16_t, D> narrow;
  hn::StoreU(hn::DemoteTo(narrow, value), narrow, target);
}

#endif

template <class D>
HWY_INLINE void store_float(D d, hn::Vec<D> value, float* target) {
  hn::StoreU(value, d, target);
}

/// Rounds to nearest even; Highway 1.0.3's own demotion truncates.
template <class D>
HWY_INLINE void store_float(D /*d*/, hn::Vec<D> value, std::uint16_t* target) {
  const hn::Rebind<std::uint32_t, D> wide;
  const hn::Rebind<std::int32_t, D> wide_signed;
  const hn::Rebind<std::uint16_t, D> narrow;
  const auto bits = hn::BitCast(wide, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(wide, 1U));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(wide, 0x7fffU))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(wide, 0x40U));
  const auto is_nan = hn::RebindMask(wide, hn::IsNaN(value));
  const auto result = hn::IfThenElse(is_nan, quiet, rounded);
  hn::StoreU(hn::DemoteTo(narrow, hn::BitCast(wide_signed, result)), narrow, target);
}

/// Numbers up to 448 (and rounding) as those that e4m3 holds, to nearest even.
template <class D>
HWY_INLINE hn::Vec<D> round_to_e4m3(D d, hn::Vec<D> value) {
  const hn::RebindToSigned<D> di;
  const auto magnitude = hn::Abs(value);
  const auto bits = hn::BitCast(di, magnitude);
  const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(di, 1));
  const auto rounded = hn::And(hn::Add(bits, hn::Add(odd, hn::Set(di, 0x7ffff))), hn::Set(di, ~0xfffff));
  const auto normal = hn::Min(hn::BitCast(d, rounded), hn::Set(d, 448.0F));
  // Below 2^-6 steps stay at 2^-9.
  const auto subnormal =
      hn::Mul(hn::ConvertTo(d, hn::NearestInt(hn::Mul(magnitude, hn::Set(d, 0x1p9F)))), hn::Set(d, 0x1p-9F));
  return hn::CopySign(hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0x1p-6F)), subnormal, normal), value);
}

/// Calls body(T{}) with the element type that stands for `dtype`: float32, bfloat16 or float16.
template <class Body>
HWY_INLINE void with_element(DType dtype, const Body& body) {
  if (dtype == DType::f32) {
    body(float{});
  } else if (dtype == DType::bf16) {
    body(std::uint16_t{});
  } else {
    body(hwy::float16_t{});
  }
}

/// Calls body(tag, index) for whole vectors, then for single elements.
template <class Body>
HWY_INLINE void for_lanes(std::int64_t width, const Body& body) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) body(d, i);
  const hn::CappedTag<float, 1> one;
  for (; i < width; ++i) body(one, i);
}

/// The same with whole vectors only where there is room for one: the last may overlap the one before it, so that it
/// must not matter whether an element is worked on twice.
template <class Body>
HWY_INLINE void for_lanes_twice(std::int64_t width, const Body& body) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (width < lanes) return for_lanes(width, body);
  for (std::int64_t i = 0; i + lanes <= width; i += lanes) body(d, i);
  if (width % lanes != 0) body(d, width - lanes);
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
