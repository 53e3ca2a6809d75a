// How a linear layer is quantised, and the plain arithmetic of it.
//
// Weights are integers times a scale, symmetric around 0: one scale for each output, or one for each group of inputs.
// w8a8 quantises the input as well, each row (token) by its own largest element, when it comes; products are then exact
// in integers. w8a16 and w4a16 keep the input as it is. fp8 is w8a8 with e4m3 in place of integers, sums in floats;
// fp8-per-tensor has one scale for the whole weight and one for all rows of an input. As in SmoothQuant (Xiao et al.,
// 2023) and QuaRot (Ashkboos et al., 2024), the input may be divided by a factor a channel or turned by Hadamard
// matrices first, the weight likewise the other way: the product stays, outliers do not.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantization/e4m3_limits.h"
#include "rondo/tensor.h"

namespace rondo {

enum class LinearFormat : std::uint8_t { w8a8, w8a16, w4a16, fp8, fp8_per_tensor };

/// "w8a8", ...
std::string_view linear_format_name(LinearFormat format);
/// Throws InvalidArgument, starting with `source`, for a name that is no format.
LinearFormat parse_linear_format(std::string_view name, std::string_view source);
/// Of weights in a file or in memory; int4 stand two a byte.
DType stored_dtype(LinearFormat format);

struct LinearQuantization {
  LinearFormat format = LinearFormat::w8a8;
  /// The largest integer of a weight: 127, or less where a kernel asks for it; 7 for w4a16. fp8 reads none.
  int weight_limit = 127;
  /// Consecutive inputs that share a weight's scale; 0 for all of them. Divides the number of inputs.
  std::int64_t group = 0;
  /// How many inputs a Hadamard matrix turns together, a power of two that divides the number of inputs; 0 for none.
  std::int64_t rotation = 0;
  /// Factors [K] float32 by which the input is divided before anything else, and the weight multiplied; undefined for
  /// none.
  Tensor smooth;
  /// Steps of a request (from 0, sorted) that run unquantised.
  std::vector<int> native_steps;

  bool is_fp8() const { return format == LinearFormat::fp8 || format == LinearFormat::fp8_per_tensor; }
  bool quantizes_input() const { return format == LinearFormat::w8a8 || is_fp8(); }
  /// "w8a8 rotation=64": part of an operator's attributes; smoothing factors stand there as a checksum.
  std::string to_string() const;
};

/// The largest integer of an input; it is stored with kInputZero added, unsigned, as CPUs multiply it.
constexpr int kInputLimit = 127;
constexpr int kInputZero = 128;

struct QuantizedWeight {
  Tensor values;  // int8 or e4m3 [N, K]
  Tensor scales;  // float32 [N, K / group]: value * scale is the weight; per tensor all are the same

  float value(std::int64_t index) const;
};

/// `weight` [N, K] in a floating dtype.
QuantizedWeight quantize_weight(const Tensor& weight, const LinearQuantization& quantization, int threads);

/// The weight [N, K] in float32 that a quantised one stands for, turned and smoothed back.
Tensor dequantize_weight(const QuantizedWeight& weight, const LinearQuantization& quantization, int threads);

/// Two int4 a byte, the even input in the low half: [N, K] int8 from -7 to 7 <-> [N, K / 2] uint8. K is even.
Tensor pack_int4(const Tensor& values);
Tensor unpack_int4(const Tensor& packed);

/// Multiplies each element by its sign, then turns elements i, i + K / parts, i + 2 K / parts, ... together by a
/// normalised Walsh-Hadamard matrix of size `parts`. So far apart, whole vectors are added and subtracted.
template <typename Real>
void rotate_row(std::span<Real> row, std::int64_t parts);
/// The inverse.
template <typename Real>
void rotate_row_back(std::span<Real> row, std::int64_t parts);

/// The sign that channel `index` is multiplied by before it is turned: from splitmix64 with a fixed seed.
float rotation_sign(std::int64_t index);

}  // namespace rondo
