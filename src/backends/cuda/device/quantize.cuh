// Rows in 8 bits for products (quantization/linear_quantization.h), and what such a product stands for. A block takes a
// row, which lies in shared memory while it is turned: memory is read once.
#pragma once

#include "backends/cuda/device/elements.cuh"
#include "backends/cuda/device/norms.cuh"
#include "quantization/e4m3_limits.h"

namespace rondo::cuda {

/// The largest magnitude of the block's, as its bits, which compare as magnitudes do, NaNs above all.
__device__ inline std::uint32_t block_magnitude(std::uint32_t bits) {
  __shared__ std::uint32_t of_warp[kBlock / kWarp];
  bits = warp_largest(bits);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = bits;
  __syncthreads();
  bits = 0;
  for (const std::uint32_t other : of_warp) bits = other > bits ? other : bits;
  return bits;
}

/// The block's row in shared memory: multiplied by its factors, turned but for the matrix' norm. All of it is there for
/// every thread.
template <typename T, int pack>
__device__ float* turned_row(const RowView& x, const float* factors, std::int64_t parts) {
  float* const own = static_cast<float*>(dynamic_shared());
  const T* const from = row_of<const T>(x, blockIdx.x);
  for (std::int64_t at = threadIdx.x * pack; at < x.width; at += kBlock * pack) {
    const auto loaded = *reinterpret_cast<const Pack<T, pack>*>(from + at);
    for (int j = 0; j < pack; ++j)
      own[at + j] = to_float(loaded.values[j]) * (factors == nullptr ? 1.0F : factors[at + j]);
  }
  for (std::int64_t span = x.width / parts; span < x.width; span *= 2) {
    __syncthreads();
    for (std::int64_t pair = threadIdx.x; pair < x.width / 2; pair += kBlock) {
      const std::int64_t a = pair / span * 2 * span + pair % span;
      const float sum = own[a] + own[a + span];
      own[a + span] = own[a] - own[a + span];
      own[a] = sum;
    }
  }
  __syncthreads();
  return own;
}

template <typename T, int pack>
__global__ void turn_rows_kernel(RowView x, const float* factors, std::int64_t parts, void* turned) {
  const float* const own = turned_row<T, pack>(x, factors, parts);
  const float norm = 1.0F / sqrtf(static_cast<float>(parts));
  T* const to = static_cast<T*>(turned) + blockIdx.x * x.width;
  for (std::int64_t at = threadIdx.x; at < x.width; at += kBlock) to[at] = from_float<T>(own[at] * norm);
}

/// The block's row's largest magnitude, as block_magnitude() gives it.
__device__ inline std::uint32_t row_magnitude(const float* row, std::int64_t width, float norm) {
  std::uint32_t bits = 0;
  for (std::int64_t at = threadIdx.x; at < width; at += kBlock) {
    const std::uint32_t magnitude = magnitude_bits(row[at] * norm);
    bits = magnitude > bits ? magnitude : bits;
  }
  return block_magnitude(bits);
}

/// Of all rows, as bits; zero before.
template <typename T, int pack>
__global__ void largest_magnitude_kernel(RowView x, const float* factors, std::int64_t parts, std::uint32_t* largest) {
  const float* const own = turned_row<T, pack>(x, factors, parts);
  const std::uint32_t bits = row_magnitude(own, x.width, 1.0F / sqrtf(static_cast<float>(parts)));
  if (threadIdx.x == 0) atomicMax(largest, bits);
}

/// What a scale's largest element becomes.
template <typename Quantized>
constexpr float kLimitOf = 127.0F;
template <>
constexpr float kLimitOf<E4m3> = kE4m3Limit;

__device__ inline void store_rounded(float value, std::int8_t* to) { *to = static_cast<std::int8_t>(rintf(value)); }
__device__ inline void store_rounded(float value, E4m3* to) { *to = from_float<E4m3>(value); }

/// Integers or e4m3 with a scale, by the row's own largest magnitude or by the bits of `largest`; what is not finite
/// has a scale that is none.
template <typename T, int pack, typename Quantized>
__global__ void quantize_rows_kernel(RowView x, const float* factors, std::int64_t parts,
                                     const std::uint32_t* largest_of_all, Quantized* values, float* scales) {
  const float* const own = turned_row<T, pack>(x, factors, parts);
  const std::int64_t row = blockIdx.x;
  const float norm = 1.0F / sqrtf(static_cast<float>(parts));
  const std::uint32_t bits = largest_of_all != nullptr ? *largest_of_all : row_magnitude(own, x.width, norm);
  constexpr float kLimit = kLimitOf<Quantized>;
  constexpr std::uint32_t kInfinity = 0x7F800000U;
  const bool finite = bits < kInfinity;
  const float largest = __uint_as_float(bits);
  const float inverse = finite && largest > kLeastMagnitude ? kLimit / largest : 0.0F;
  // Four to a store where rows are whole ones.
  const auto rounded = [&](std::int64_t at) {
    Quantized value;
    store_rounded(finite ? own[at] * norm * inverse : 0.0F, &value);
    return value;
  };
  constexpr int kStored = 4;
  if (x.width % kStored == 0) {
    for (std::int64_t at = threadIdx.x * kStored; at < x.width; at += kBlock * kStored) {
      Pack<Quantized, kStored> stored;
      for (int j = 0; j < kStored; ++j) stored.values[j] = rounded(at + j);
      *reinterpret_cast<Pack<Quantized, kStored>*>(values + row * x.width + at) = stored;
    }
  } else {
    for (std::int64_t at = threadIdx.x; at < x.width; at += kBlock) values[row * x.width + at] = rounded(at);
  }
  if (threadIdx.x == 0) scales[row] = finite ? largest / kLimit : __uint_as_float(0x7FC00000U);
}

/// Sums [rows, width] times their row's and their column's scale, plus the bias, activated.
template <typename Sum, typename T, int pack>
__global__ void dequantize_kernel(const Sum* product, const float* row_scales, const float* column_scales, Vector bias,
                                  bool activates, Activation activation, RowView y) {
  for_packs<pack>(y.rows(), y.width, [&](std::int64_t row, std::int64_t at) {
    float values[pack];
    float scales[pack];
    load_floats(product + row * y.width + at, values);
    load_floats(column_scales + at, scales);
    for (int j = 0; j < pack; ++j) {
      values[j] *= row_scales[row] * scales[j];
      if (bias.data != nullptr) values[j] += load(bias.data, bias.number, at + j);
      if (activates) values[j] = activation_of(activation, values[j]);
    }
    store_floats(values, row_of<T>(y, row) + at);
  });
}

/// Integers, one a byte or two (the even one in the low half), times their group's scale; two at a time.
template <typename T, bool halves>
__global__ void dequantize_weight_kernel(const std::uint8_t* values, const float* scales, std::int64_t count,
                                         std::int64_t group, T* weight) {
  for (std::int64_t i = 2 * own_element(); i < count; i += 2 * element_step()) {
    int even;
    int odd;
    if constexpr (halves) {
      const int byte = values[i / 2];
      even = (byte & 15) - (byte & 8) * 2;
      odd = (byte >> 4) - (byte >> 4 & 8) * 2;
    } else {
      even = static_cast<std::int8_t>(values[i]);
      odd = static_cast<std::int8_t>(values[i + 1]);
    }
    const float scale = scales[i / group];  // groups are even
    weight[i] = from_float<T>(static_cast<float>(even) * scale);
    weight[i + 1] = from_float<T>(static_cast<float>(odd) * scale);
  }
}

}  // namespace rondo::cuda
