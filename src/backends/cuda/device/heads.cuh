// Rows of heads as e4m3 with one scale for all (attention/quantized_attention.h says what becomes of them before). A
// warp takes a row, a lane neighbouring columns of it.
#pragma once

#include "backends/cuda/device/elements.cuh"
#include "backends/cuda/device/norms.cuh"
#include "quantization/e4m3_limits.h"

namespace rondo::cuda {

/// The warp's row of x [B, S, N, D], and its head.
struct OwnHeadRow {
  std::int64_t row;
  bool there;
  std::int64_t head;  // counted over batches
  int lane;
};

__device__ inline OwnHeadRow own_head_row(const RowView& x) {
  constexpr int kHeads = RowView::kAxes - 1;
  const std::int64_t row = own_row<kWarp>();
  const std::int64_t heads = x.extent[kHeads];
  const std::int64_t batch = row / (heads * x.extent[kHeads - 1]);
  return {row, row < x.rows(), batch * heads + row % heads, own_lane<kWarp>()};
}

/// Its columns lane * own, lane * own + 1, ...; 0 beyond the row's end.
template <typename T, int own>
__device__ void load_head_row(const RowView& x, const HeadChange& change, const OwnHeadRow& at, float (&values)[own]) {
  const T* const from = row_of<const T>(x, at.row);
  const int first = at.lane * own;
  for (int j = 0; j < own; ++j) {
    const int d = first + j;
    values[j] = d < x.width ? to_float(from[d]) : 0.0F;
    if (d < x.width && change.means != nullptr) values[j] -= change.means[at.head * x.width + d];
  }
  if (!change.rotates) return;
  // Signs, then a Walsh-Hadamard matrix: distances within a lane, then between lanes.
  const float norm = 1.0F / sqrtf(static_cast<float>(x.width));
  for (int j = 0; j < own; ++j) {
    const bool negative = (change.signs[(first + j) / 32] >> ((first + j) % 32) & 1U) != 0;
    values[j] *= negative ? -norm : norm;
  }
  for (int distance = 1; distance < own; distance *= 2) {
    for (int j = 0; j < own; ++j) {
      if ((j & distance) != 0) continue;
      const float sum = values[j] + values[j + distance];
      values[j + distance] = values[j] - values[j + distance];
      values[j] = sum;
    }
  }
  for (int distance = 1; distance < kWarp; distance *= 2) {
    for (float& value : values) {
      const float other = __shfl_xor_sync(0xFFFFFFFFU, value, distance);
      value = (at.lane & distance) != 0 ? other - value : value + other;
    }
  }
}

/// The bits of the largest magnitude; zero before.
template <typename T, int own>
__global__ void largest_of_heads_kernel(RowView x, HeadChange change, std::uint32_t* largest) {
  const OwnHeadRow at = own_head_row(x);
  if (!at.there) return;  // the whole warp
  float values[own];
  load_head_row<T, own>(x, change, at, values);
  std::uint32_t bits = 0;
  for (const float value : values) {
    const std::uint32_t magnitude = magnitude_bits(value);
    bits = magnitude > bits ? magnitude : bits;
  }
  bits = warp_largest(bits);
  if (at.lane == 0) atomicMax(largest, bits);
}

/// What is not finite has a scale that is none.
template <typename T, int own>
__global__ void quantize_heads_kernel(RowView x, HeadChange change, const std::uint32_t* largest_bits, E4m3* quantized,
                                      float* scale, float* inverse_scale) {
  const OwnHeadRow at = own_head_row(x);
  if (!at.there) return;
  constexpr std::uint32_t kInfinity = 0x7F800000U;
  constexpr std::uint32_t kNotANumber = 0x7FC00000U;
  const bool finite = *largest_bits < kInfinity;
  const float largest = __uint_as_float(*largest_bits);
  const float inverse = finite && largest > kLeastMagnitude ? kE4m3Limit / largest : 0.0F;
  float values[own];
  load_head_row<T, own>(x, change, at, values);
  for (int j = 0; j < own; ++j) {
    const int d = at.lane * own + j;
    if (d < x.width) quantized[at.row * x.width + d] = from_float<E4m3>(inverse == 0.0F ? 0.0F : values[j] * inverse);
  }
  if (at.row == 0 && at.lane == 0) {
    *scale = finite ? largest / kE4m3Limit : __uint_as_float(kNotANumber);
    if (inverse_scale != nullptr) *inverse_scale = inverse;
  }
}

/// The mean over tokens of each head of x [B, S, N, D], [B, N, D]. A block takes a head, a warp every so many tokens.
template <typename T, int own>
__global__ void head_means_kernel(RowView x, float* means) {
  constexpr int kHeads = RowView::kAxes - 1;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t heads = x.extent[kHeads];
  const std::int64_t tokens = x.extent[kHeads - 1];
  const std::int64_t batch = blockIdx.x / heads;
  float sums[own];
  for (float& sum : sums) sum = 0;
  for (std::int64_t s = warp; s < tokens; s += warps) {
    const T* const row = row_of<const T>(x, (batch * tokens + s) * heads + blockIdx.x % heads);
    for (int j = 0; j < own; ++j) {
      const int d = lane * own + j;
      if (d < x.width) sums[j] += to_float(row[d]);
    }
  }
  float* const shared = static_cast<float*>(dynamic_shared());  // [warps][own * kWarp]
  for (int j = 0; j < own; ++j) shared[(warp * own + j) * kWarp + lane] = sums[j];
  __syncthreads();
  for (std::int64_t d = threadIdx.x; d < x.width; d += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += shared[(w * own + d % own) * kWarp + d / own];
    means[blockIdx.x * x.width + d] = sum / static_cast<float>(tokens);
  }
}

/// Rows in e4m3, dense, as what they stand for.
template <typename T>
__global__ void e4m3_rows_kernel(const E4m3* values, const float* scale, RowView y) {
  for_packs<1>(y.rows(), y.width, [&](std::int64_t row, std::int64_t at) {
    row_of<T>(y, row)[at] = from_float<T>(to_float(values[row * y.width + at]) * *scale);
  });
}

/// What the host knows of packed sequences, on the device.
__global__ inline void write_sequences_kernel(PackedSequences sequences, std::int32_t* lengths, std::int64_t* begins) {
  for (int i = static_cast<int>(threadIdx.x); i <= sequences.count; i += static_cast<int>(blockDim.x)) {
    for (int part = 0; part < 4; ++part) {
      const std::int64_t token = part == 1 || part == 2 ? sequences.key_begins[i] : sequences.query_begins[i];
      begins[part * kBegins + i] = token * sequences.strides[part];
    }
    if (i == sequences.count) continue;
    lengths[i] = sequences.queries[i];
    lengths[PackedSequences::kMost + i] = sequences.keys[i];
  }
}

}  // namespace rondo::cuda
