#include "ops/wire_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace rondo {
namespace {

constexpr float kMost = 127;
constexpr std::uint32_t kInfinity = 0x7f800000U;

std::int64_t width_of(std::span<const std::int64_t> parts) {
  return std::accumulate(parts.begin(), parts.end(), std::int64_t{0});
}

/// The bits of the largest magnitude: integers compare as the floats do, NaNs above all, and compilers vectorise it.
std::uint32_t largest_bits(const float* values, std::int64_t count) {
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::bit_cast<std::uint32_t>(values[i]) & 0x7fffffffU);
  return most;
}

}  // namespace

std::int64_t wire_row_bytes(std::span<const std::int64_t> parts) {
  return width_of(parts) + static_cast<std::int64_t>(parts.size() * sizeof(float));
}

void row_to_wire(std::span<const std::int64_t> parts, const float* row, std::int8_t* bytes) {
  std::int8_t* scales = bytes + width_of(parts);
  for (const std::int64_t count : parts) {
    const std::uint32_t bits = largest_bits(row, count);
    const float most = std::bit_cast<float>(bits);
    const float scale = bits >= kInfinity ? std::numeric_limits<float>::quiet_NaN() : most / kMost;
    // Of values so small that the inverse is infinite nothing is left.
    const float inverse = bits >= kInfinity || scale < std::numeric_limits<float>::min() ? 0.0F : 1.0F / scale;
    for (std::int64_t i = 0; i < count; ++i) {
      const float scaled = bits >= kInfinity ? 0.0F : row[i] * inverse;
      bytes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(scaled + std::copysign(0.5F, scaled)));
    }
    std::memcpy(scales, &scale, sizeof scale);
    scales += sizeof scale;
    bytes += count;
    row += count;
  }
}

void row_from_wire(std::span<const std::int64_t> parts, const std::int8_t* bytes, float* row) {
  const std::int8_t* scales = bytes + width_of(parts);
  for (const std::int64_t count : parts) {
    float scale = 0;
    std::memcpy(&scale, scales, sizeof scale);
    for (std::int64_t i = 0; i < count; ++i) row[i] = static_cast<float>(bytes[i]) * scale;
    scales += sizeof scale;
    bytes += count;
    row += count;
  }
}

std::vector<TensorType> RowsToWireOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check_floating(inputs);
  check(inputs[0].shape.rank() > 0 && inputs[0].shape.back() == width_of(parts_), "{} has not rows of {}",
        inputs[0].to_string(), width_of(parts_));
  TensorType result = inputs[0];
  result.shape[result.shape.rank() - 1] = wire_row_bytes(parts_);
  result.dtype = DType::s8;
  return {result};
}

void RowsToWireOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::vector<float> values(inputs[0].values.begin(), inputs[0].values.end());
  const auto width = static_cast<std::size_t>(width_of(parts_));
  const auto bytes = static_cast<std::size_t>(wire_row_bytes(parts_));
  std::vector<std::int8_t> row(bytes);
  for (std::size_t r = 0; r * width < values.size(); ++r) {
    row_to_wire(parts_, values.data() + r * width, row.data());
    std::copy(row.begin(), row.end(), outputs[0].values.begin() + static_cast<std::ptrdiff_t>(r * bytes));
  }
}

std::vector<TensorType> RowsFromWireOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check(inputs[0].dtype == DType::s8 && inputs[0].shape.rank() > 0 && inputs[0].shape.back() == wire_row_bytes(parts_),
        "{} has not rows of {} bytes", inputs[0].to_string(), wire_row_bytes(parts_));
  TensorType result = inputs[0];
  result.shape[result.shape.rank() - 1] = width_of(parts_);
  result.dtype = dtype_;
  return {result};
}

void RowsFromWireOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::vector<std::int8_t> bytes(inputs[0].values.begin(), inputs[0].values.end());
  const auto width = static_cast<std::size_t>(width_of(parts_));
  const auto each = static_cast<std::size_t>(wire_row_bytes(parts_));
  std::vector<float> row(width);
  for (std::size_t r = 0; r * each < bytes.size(); ++r) {
    row_from_wire(parts_, bytes.data() + r * each, row.data());
    std::copy(row.begin(), row.end(), outputs[0].values.begin() + static_cast<std::ptrdiff_t>(r * width));
  }
}

}  // namespace rondo
