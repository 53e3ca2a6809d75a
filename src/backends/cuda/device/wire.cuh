// Rows in 8 bits for the way between ranks (ops/wire_rows.h). A warp takes one part of one row.
#pragma once

#include "backends/cuda/device/numbers.cuh"

namespace rondo::cuda {

/// What a warp works on: a part of a row, and where it lies in the row and on the wire.
struct OwnWirePart {
  bool there;
  std::int64_t row;
  std::int64_t begin;
  std::int64_t width;
  std::int8_t* bytes;
  unsigned char* scale;
  int lane;
};

__device__ inline OwnWirePart own_wire_part(const RowView& rows, const WireParts& parts, std::int8_t* wire) {
  const std::int64_t unit = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const std::int64_t row = unit / parts.count;
  const int part = static_cast<int>(unit % parts.count);
  std::int64_t begin = 0;
  for (int i = 0; i < part; ++i) begin += parts.width[i];
  constexpr int kScale = sizeof(float);
  std::int8_t* const bytes = wire + row * (rows.width + parts.count * kScale);
  return {row < rows.rows(),
          row,
          begin,
          parts.width[part],
          bytes + begin,
          reinterpret_cast<unsigned char*>(bytes + rows.width + part * kScale),
          static_cast<int>(threadIdx.x) % kWarp};
}

template <typename T>
__global__ void rows_to_wire_kernel(RowView x, WireParts parts, std::int8_t* wire) {
  const OwnWirePart own = own_wire_part(x, parts, wire);
  if (!own.there) return;  // the whole warp
  const T* const values = row_of<const T>(x, own.row) + own.begin;
  std::uint32_t bits = 0;
  for (std::int64_t i = own.lane; i < own.width; i += kWarp) {
    const std::uint32_t magnitude = magnitude_bits(to_float(values[i]));
    bits = magnitude > bits ? magnitude : bits;
  }
  bits = warp_largest(bits);
  constexpr std::uint32_t kInfinity = 0x7F800000U;
  constexpr std::uint32_t kNotANumber = 0x7FC00000U;
  constexpr float kLeast = 1.17549435e-38F;
  const bool finite = bits < kInfinity;
  const float scale = finite ? __uint_as_float(bits) / 127.0F : __uint_as_float(kNotANumber);
  const float inverse = !finite || scale < kLeast ? 0.0F : 1.0F / scale;
  for (std::int64_t i = own.lane; i < own.width; i += kWarp) {
    // Rounded before it is shifted: fused, the two would round otherwise than on the CPU.
    const float scaled = finite ? __fmul_rn(to_float(values[i]), inverse) : 0.0F;
    own.bytes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(scaled + copysignf(0.5F, scaled)));
  }
  const std::uint32_t scale_bits = __float_as_uint(scale);
  if (own.lane < 4) own.scale[own.lane] = static_cast<unsigned char>(scale_bits >> (8 * own.lane));
}

template <typename T>
__global__ void rows_from_wire_kernel(const std::int8_t* wire, WireParts parts, RowView y) {
  const OwnWirePart own = own_wire_part(y, parts, const_cast<std::int8_t*>(wire));
  if (!own.there) return;
  std::uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= static_cast<std::uint32_t>(own.scale[i]) << (8 * i);
  const float scale = __uint_as_float(bits);
  T* const values = row_of<T>(y, own.row) + own.begin;
  for (std::int64_t i = own.lane; i < own.width; i += kWarp) values[i] = from_float<T>(to_float(own.bytes[i]) * scale);
}

}  // namespace rondo::cuda
