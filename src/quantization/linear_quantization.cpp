#include "quantization/linear_quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/float_formats.h"
#include "core/text.h"
#include "core/threads.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array<std::string_view, 5> kFormats{"w8a8", "w8a16", "w4a16", "fp8", "fp8-per-tensor"};

/// Sums and differences of elements 1, 2, 4, ... parts apart: a Walsh-Hadamard matrix without the matrix.
template <typename Real>
void hadamard(std::span<Real> row, std::int64_t parts) {
  const std::int64_t part = static_cast<std::int64_t>(row.size()) / parts;
  for (std::int64_t distance = 1; distance < parts; distance *= 2) {
    for (std::int64_t first = 0; first < parts; ++first) {
      if ((first & distance) != 0) continue;
      Real* a = row.data() + first * part;
      Real* b = a + distance * part;
      for (std::int64_t i = 0; i < part; ++i) {
        const Real sum = a[i] + b[i];
        b[i] = a[i] - b[i];
        a[i] = sum;
      }
    }
  }
  const Real norm = 1 / std::sqrt(static_cast<Real>(parts));
  for (Real& value : row) value *= norm;
}

template <typename Real>
void apply_signs(std::span<Real> row) {
  for (std::size_t i = 0; i < row.size(); ++i) row[i] *= static_cast<Real>(rotation_sign(static_cast<std::int64_t>(i)));
}

/// Of what is infinite or no number, that.
float largest_magnitude(std::span<const float> values) {
  float largest = 0;
  for (const float value : values)
    largest = std::isnan(value) || std::isnan(largest) ? NAN : std::max(largest, std::abs(value));
  return largest;
}

/// A file's weight may be infinite: what is no number becomes 0 here, and the scale says so.
void quantize_group(std::span<const float> group, int limit, std::int8_t* values, float* scale) {
  const float largest = largest_magnitude(group);
  *scale = largest / static_cast<float>(limit);
  const float inverse = largest > 0 ? static_cast<float>(limit) / largest : 0;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const float value = std::isfinite(largest) ? std::nearbyint(group[i] * inverse) : 0;
    values[i] = static_cast<std::int8_t>(std::clamp(value, static_cast<float>(-limit), static_cast<float>(limit)));
  }
}

/// The same in e4m3, for what shares its largest element with others.
void quantize_e4m3(std::span<const float> row, float largest, std::uint8_t* values, float* scale) {
  *scale = largest / kE4m3Limit;
  const bool has_scale = largest > kLeastMagnitude && std::isfinite(largest);
  const float inverse = has_scale ? kE4m3Limit / largest : 0;
  for (std::size_t i = 0; i < row.size(); ++i) values[i] = float_to_f8_e4m3(has_scale ? row[i] * inverse : 0.0F);
}

/// A row of the weight as it is multiplied: smoothed and turned.
std::vector<float> prepared_row(const Tensor& weight, std::int64_t n, const LinearQuantization& quantization) {
  const std::int64_t inputs = weight.shape()[1];
  const Tensor row = weight.sliced(0, n, n + 1).to_float32();
  std::vector<float> values(row.as<float>(), row.as<float>() + inputs);
  for (std::int64_t k = 0; quantization.smooth.defined() && k < inputs; ++k)
    values[static_cast<std::size_t>(k)] *= quantization.smooth.as<float>()[k];
  if (quantization.rotation != 0) rotate_row(std::span(values), quantization.rotation);
  return values;
}

float largest_in_weight(const Tensor& weight, const LinearQuantization& quantization, int threads) {
  std::vector<float> of_row(static_cast<std::size_t>(weight.shape()[0]));
  parallel_ranges(threads, weight.shape()[0], 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      of_row[static_cast<std::size_t>(n)] = largest_magnitude(prepared_row(weight, n, quantization));
  });
  return largest_magnitude(of_row);
}

/// FNV-1a over the bytes.
std::uint64_t checksum(const Tensor& tensor) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (std::size_t i = 0; i < tensor.bytes(); ++i)
    hash = (hash ^ std::to_integer<std::uint64_t>(tensor.as<std::byte>()[i])) * 0x100000001b3U;
  return hash;
}

std::int64_t group_of(const LinearQuantization& quantization, std::int64_t inputs) {
  return quantization.group == 0 ? inputs : quantization.group;
}

}  // namespace

std::string_view linear_format_name(LinearFormat format) { return kFormats[static_cast<std::size_t>(format)]; }

LinearFormat parse_linear_format(std::string_view name, std::string_view source) {
  const auto found = std::find(kFormats.begin(), kFormats.end(), name);
  if (found == kFormats.end())
    throw InvalidArgument(
        fmt::format("{}: '{}' is given; allowed are {}", source, printable(name), fmt::join(kFormats, ", ")));
  return static_cast<LinearFormat>(found - kFormats.begin());
}

DType stored_dtype(LinearFormat format) {
  switch (format) {
    case LinearFormat::w4a16: return DType::u8;
    case LinearFormat::fp8:
    case LinearFormat::fp8_per_tensor: return DType::f8_e4m3;
    default: return DType::s8;
  }
}

std::string LinearQuantization::to_string() const {
  std::string text(linear_format_name(format));
  if (weight_limit != 127) text += fmt::format(" limit={}", weight_limit);
  if (group != 0) text += fmt::format(" group={}", group);
  if (rotation != 0) text += fmt::format(" rotation={}", rotation);
  if (smooth.defined()) text += fmt::format(" smooth={:016x}", checksum(smooth));
  if (!native_steps.empty()) text += fmt::format(" native at steps {}", fmt::join(native_steps, ","));
  return text;
}

float rotation_sign(std::int64_t index) {
  constexpr std::uint64_t kSeed = 1234;
  std::uint64_t z = kSeed + (static_cast<std::uint64_t>(index) + 1) * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return ((z ^ (z >> 31)) & 1U) != 0 ? -1.0F : 1.0F;
}

template <typename Real>
void rotate_row(std::span<Real> row, std::int64_t parts) {
  apply_signs(row);
  hadamard(row, parts);
}

template <typename Real>
void rotate_row_back(std::span<Real> row, std::int64_t parts) {
  hadamard(row, parts);  // symmetric and orthogonal: its own inverse
  apply_signs(row);
}

template void rotate_row(std::span<float> row, std::int64_t parts);
template void rotate_row(std::span<double> row, std::int64_t parts);
template void rotate_row_back(std::span<float> row, std::int64_t parts);
template void rotate_row_back(std::span<double> row, std::int64_t parts);

float QuantizedWeight::value(std::int64_t index) const {
  if (values.dtype() == DType::f8_e4m3) return f8_e4m3_to_float(values.as<std::uint8_t>()[index]);
  return static_cast<float>(values.as<std::int8_t>()[index]);
}

QuantizedWeight quantize_weight(const Tensor& weight, const LinearQuantization& quantization, int threads) {
  const std::int64_t outputs = weight.shape()[0];
  const std::int64_t inputs = weight.shape()[1];
  const std::int64_t group = group_of(quantization, inputs);
  const bool per_tensor = quantization.format == LinearFormat::fp8_per_tensor;
  const float largest = per_tensor ? largest_in_weight(weight, quantization, threads) : 0;
  QuantizedWeight result{Tensor::empty(weight.shape(), quantization.is_fp8() ? DType::f8_e4m3 : DType::s8),
                         Tensor::empty({outputs, inputs / group}, DType::f32)};
  parallel_ranges(threads, outputs, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const std::vector<float> row = prepared_row(weight, n, quantization);
      for (std::int64_t k = 0; k < inputs; k += group) {
        const std::span part = std::span(row).subspan(static_cast<std::size_t>(k), static_cast<std::size_t>(group));
        const std::int64_t at = n * inputs + k;
        float* const scale = result.scales.as<float>() + at / group;
        if (quantization.is_fp8())
          quantize_e4m3(part, per_tensor ? largest : largest_magnitude(part), result.values.as<std::uint8_t>() + at,
                        scale);
        else
          quantize_group(part, quantization.weight_limit, result.values.as<std::int8_t>() + at, scale);
      }
    }
  });
  return result;
}

Tensor dequantize_weight(const QuantizedWeight& weight, const LinearQuantization& quantization, int threads) {
  const std::int64_t outputs = weight.values.shape()[0];
  const std::int64_t inputs = weight.values.shape()[1];
  const std::int64_t group = group_of(quantization, inputs);
  Tensor result = Tensor::empty(weight.values.shape(), DType::f32);
  parallel_ranges(threads, outputs, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const std::span row(result.as<float>() + n * inputs, static_cast<std::size_t>(inputs));
      for (std::int64_t k = 0; k < inputs; ++k) {
        row[static_cast<std::size_t>(k)] =
            weight.value(n * inputs + k) * weight.scales.as<float>()[(n * inputs + k) / group];
      }
      if (quantization.rotation != 0) rotate_row_back(row, quantization.rotation);
      for (std::int64_t k = 0; quantization.smooth.defined() && k < inputs; ++k)
        row[static_cast<std::size_t>(k)] /= quantization.smooth.as<float>()[k];
    }
  });
  return result;
}

Tensor pack_int4(const Tensor& values) {
  Tensor packed = Tensor::empty({values.shape()[0], values.shape()[1] / 2}, DType::u8);
  const auto* from = values.as<std::int8_t>();
  for (std::int64_t i = 0; i < packed.elements(); ++i) {
    packed.as<std::uint8_t>()[i] =
        static_cast<std::uint8_t>((from[2 * i] & 0xf) | (static_cast<unsigned>(from[2 * i + 1]) & 0xfU) << 4U);
  }
  return packed;
}

Tensor unpack_int4(const Tensor& packed) {
  Tensor values = Tensor::empty({packed.shape()[0], packed.shape()[1] * 2}, DType::s8);
  const auto sign_extend = [](unsigned nibble) { return static_cast<std::int8_t>(static_cast<int>(nibble ^ 8U) - 8); };
  for (std::int64_t i = 0; i < packed.elements(); ++i) {
    const unsigned byte = packed.as<std::uint8_t>()[i];
    values.as<std::int8_t>()[2 * i] = sign_extend(byte & 0xfU);
    values.as<std::int8_t>()[2 * i + 1] = sign_extend(byte >> 4U);
  }
  return values;
}

}  // namespace rondo
