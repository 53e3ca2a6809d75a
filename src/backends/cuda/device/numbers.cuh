// Elements as floats and back.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#else
// The kernels' own code on the CPU, for tests: a fiber a thread.
#include "cuda_emulation.h"
#endif

#include "backends/cuda/device/launches.h"

namespace rondo::cuda {

struct F16 {
  std::uint16_t bits;
};
struct Bf16 {
  std::uint16_t bits;
};
struct E4m3 {
  std::uint8_t bits;
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(Bf16 x) { return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16); }
__device__ inline float to_float(F16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline float to_float(E4m3 x) {
  return __half2float(__ushort_as_half(__nv_cvt_fp8_to_halfraw(x.bits, __NV_E4M3).x));
}
__device__ inline float to_float(std::int8_t x) { return x; }
__device__ inline float to_float(std::uint8_t x) { return x; }
__device__ inline float to_float(bool x) { return x ? 1.0F : 0.0F; }
__device__ inline float to_float(std::int32_t x) { return static_cast<float>(x); }
__device__ inline float to_float(std::int64_t x) { return static_cast<float>(x); }

template <typename T>
__device__ T from_float(float x) {
  return static_cast<T>(x);
}
template <>
__device__ inline bool from_float<bool>(float x) {
  return x != 0.0F;
}
template <>
__device__ inline F16 from_float<F16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ inline Bf16 from_float<Bf16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

/// What is beyond 448 saturates.
template <>
__device__ inline E4m3 from_float<E4m3>(float x) {
  return {__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)};
}

/// An element of a dtype that is known when the kernel runs: for parameters, of which a row reads few.
__device__ inline float load(const void* data, Number number, std::int64_t index) {
  switch (number) {
    case Number::f32: return static_cast<const float*>(data)[index];
    case Number::f16: return to_float(static_cast<const F16*>(data)[index]);
    case Number::bf16: return to_float(static_cast<const Bf16*>(data)[index]);
    case Number::s8: return to_float(static_cast<const std::int8_t*>(data)[index]);
    case Number::u8: return to_float(static_cast<const std::uint8_t*>(data)[index]);
    case Number::s32: return to_float(static_cast<const std::int32_t*>(data)[index]);
    case Number::s64: return to_float(static_cast<const std::int64_t*>(data)[index]);
    case Number::boolean: return to_float(static_cast<const bool*>(data)[index]);
  }
  return 0;
}

/// Calls visit with a value of the floating dtype's type.
template <typename Visit>
void with_float_type(Number number, const Visit& visit) {
  switch (number) {
    case Number::f16: return visit(F16{});
    case Number::bf16: return visit(Bf16{});
    default: return visit(float{});
  }
}

/// The same for every dtype.
template <typename Visit>
void with_type(Number number, const Visit& visit) {
  switch (number) {
    case Number::f32: return visit(float{});
    case Number::f16: return visit(F16{});
    case Number::bf16: return visit(Bf16{});
    case Number::s8: return visit(std::int8_t{});
    case Number::u8: return visit(std::uint8_t{});
    case Number::s32: return visit(std::int32_t{});
    case Number::s64: return visit(std::int64_t{});
    case Number::boolean: return visit(bool{});
  }
}

/// So many elements as one load of up to 16 bytes.
template <typename T, int count>
struct alignas(sizeof(T) * count) Pack {
  T values[count];
};

/// So many neighbouring numbers, by loads and stores of up to 16 bytes where they lie so.
template <typename T, int count>
__device__ void load_floats(const T* from, float (&values)[count]) {
  const auto loaded = *reinterpret_cast<const Pack<T, count>*>(from);
  for (int i = 0; i < count; ++i) values[i] = to_float(loaded.values[i]);
}
template <typename T, int count>
__device__ void store_floats(const float (&values)[count], T* to) {
  Pack<T, count> stored;
  for (int i = 0; i < count; ++i) stored.values[i] = from_float<T>(values[i]);
  *reinterpret_cast<Pack<T, count>*>(to) = stored;
}
/// The same of parameters: several are of type T.
template <typename T, int count>
__device__ void load_parameters(const void* data, Number number, std::int64_t index, float (&values)[count]) {
  if constexpr (count > 1)
    load_floats(static_cast<const T*>(data) + index, values);
  else
    values[0] = load(data, number, index);
}

constexpr int kWarp = 32;

#ifdef __CUDACC__
/// The block's dynamic shared memory.
__device__ inline void* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return shared_bytes;
}
#endif

/// The sum over a warp, on every lane.
__device__ inline float warp_sum(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
  return value;
}
__device__ inline float warp_max(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, distance));
  return value;
}

/// Bits of magnitudes compare as they do, NaNs above all.
__device__ inline std::uint32_t magnitude_bits(float value) { return __float_as_uint(value) & 0x7FFFFFFFU; }
/// The largest over a warp, on every lane.
__device__ inline std::uint32_t warp_largest(std::uint32_t bits) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const std::uint32_t other = __shfl_xor_sync(0xFFFFFFFFU, bits, distance);
    bits = other > bits ? other : bits;
  }
  return bits;
}

/// Where a modulation's row for the row of x begins, in elements.
__device__ inline std::int64_t modulation_row(const Modulation& m, std::int64_t row, std::int64_t tokens) {
  return row / tokens * m.batch_stride + row % tokens * m.token_stride;
}

/// The sum over the `threads` threads of a row: a warp, or the whole block. Every one of them calls it.
template <int threads>
__device__ float row_sum(float value) {
  value = warp_sum(value);
  if constexpr (threads > kWarp) {
    __shared__ float parts[threads / kWarp];
    __syncthreads();  // the last sum has been read
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = 0;
    for (int i = 0; i < threads / kWarp; ++i) value += parts[i];
  }
  return value;
}

__device__ inline std::int64_t row_offset(const RowView& view, std::int64_t row) {
  if (view.spacing != 0) return row * view.spacing;
  std::int64_t offset = 0;
  for (int axis = RowView::kAxes - 1; axis >= 0; --axis) {
    offset += row % view.extent[axis] * view.stride[axis];
    row /= view.extent[axis];
  }
  return offset;
}

template <typename T>
__device__ T* row_of(const RowView& view, std::int64_t row) {
  return static_cast<T*>(view.data) + row_offset(view, row);
}

}  // namespace rondo::cuda
