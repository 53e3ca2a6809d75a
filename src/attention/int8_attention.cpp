#include "attention/int8_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention/reference_attention.h"
#include "quantization/linear_quantization.h"

namespace rondo {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

/// Integers and the scale that they are multiples of. Where a value is not finite the scale is not either.
float quantize(std::span<float> values) {
  float largest = 0;
  for (const float value : values)
    largest = std::isnan(value) || std::isnan(largest) ? NAN : std::max(largest, std::abs(value));
  const bool has_scale = largest > kLeastMagnitude && std::isfinite(largest);
  const float inverse = has_scale ? static_cast<float>(kInt8Limit) / largest : 0.0F;
  for (float& value : values) value = has_scale ? std::nearbyint(value * inverse) : 0.0F;
  return largest / static_cast<float>(kInt8Limit);
}

/// One head's queries, keys or values as integers, and their scales.
struct QuantizedRows {
  std::vector<float> rows;
  std::vector<float> scales;
};

QuantizedRows quantize_rows(const std::vector<double>& rows, std::int64_t width, bool turn) {
  QuantizedRows result{{rows.begin(), rows.end()}, {}};
  for (std::size_t first = 0; first < result.rows.size(); first += static_cast<std::size_t>(width)) {
    const std::span row = std::span(result.rows).subspan(first, static_cast<std::size_t>(width));
    if (turn) rotate_head(row);
    result.scales.push_back(quantize(row));
  }
  return result;
}

/// scales: [block][column]
QuantizedRows quantize_columns(const std::vector<double>& rows, std::int64_t width) {
  QuantizedRows result{{rows.begin(), rows.end()}, {}};
  const std::int64_t count = static_cast<std::int64_t>(result.rows.size()) / width;
  for (std::int64_t first = 0; first < count; first += kKeysOfBlock) {
    const std::int64_t keys = std::min(kKeysOfBlock, count - first);
    for (std::int64_t c = 0; c < width; ++c) {
      std::vector<float> column;
      for (std::int64_t j = 0; j < keys; ++j)
        column.push_back(result.rows[static_cast<std::size_t>((first + j) * width + c)]);
      result.scales.push_back(quantize(column));
      for (std::int64_t j = 0; j < keys; ++j)
        result.rows[static_cast<std::size_t>((first + j) * width + c)] = column[static_cast<std::size_t>(j)];
    }
  }
  return result;
}

class Int8Runner final : public AttentionRunner {
 public:
  explicit Int8Runner(bool rotate) : rotate_(rotate) {}
  std::size_t scratch_bytes() const override { return 0; }

  void run(const AttentionCall& call, std::span<std::byte> /*scratch*/) const override {
    const ReferenceMask mask(call.mask);
    for (const AttentionSequence& sequence : call.sequences) {
      for (std::int64_t head = 0; head < call.query.shape()[2]; ++head) run_head(call, sequence, head, mask);
    }
  }

 private:
  void run_head(const AttentionCall& call, const AttentionSequence& s, std::int64_t head,
                const ReferenceMask& mask) const {
    const std::int64_t key_head = head / (call.query.shape()[2] / call.key.shape()[2]);
    const std::int64_t width = call.query.shape()[3];
    const std::int64_t value_width = call.value.shape()[3];
    const QuantizedRows q =
        quantize_rows(reference_head(call.query, s.batch, s.query_begin, s.queries, head), width, rotate_);
    const QuantizedRows k =
        quantize_rows(reference_head(call.key, s.batch, s.key_begin, s.keys, key_head), width, rotate_);
    const QuantizedRows v =
        quantize_columns(reference_head(call.value, s.batch, s.key_begin, s.keys, key_head), value_width);
    std::vector<double> scores(static_cast<std::size_t>(s.keys));
    std::vector<double> row(static_cast<std::size_t>(value_width));
    for (std::int64_t i = 0; i < s.queries; ++i) {
      for (std::int64_t j = 0; j < s.keys; ++j) {
        double sum = 0;
        for (std::int64_t d = 0; d < width; ++d)
          sum += static_cast<double>(q.rows[static_cast<std::size_t>(i * width + d)]) *
                 static_cast<double>(k.rows[static_cast<std::size_t>(j * width + d)]);
        const bool blind = call.causal && j > i + s.keys - s.queries;
        scores[static_cast<std::size_t>(j)] = (blind ? kHidden : mask.at(s.batch, head, i, j)) +
                                              sum * static_cast<double>(q.scales[static_cast<std::size_t>(i)]) *
                                                  static_cast<double>(k.scales[static_cast<std::size_t>(j)]) *
                                                  static_cast<double>(call.scale);
      }
      const double lse = mix(scores, v, row);
      store_reference_row(call, s, head, i, row, lse);
    }
  }

  /// Blocks of keys, each with weights of its own, put together; returns the LSE.
  static double mix(std::span<const double> scores, const QuantizedRows& v, std::span<double> output) {
    const double most =
        scores.empty() ? kHidden : *std::max_element(scores.begin(), scores.end(), [](double a, double b) {
          return std::isnan(b) || a < b;  // NaN is not lost: it becomes the largest
        });
    std::fill(output.begin(), output.end(), 0.0);
    if (most == kHidden) return kHidden;
    double exact = 0;
    double used = 0;
    for (std::size_t first = 0; first < scores.size(); first += kKeysOfBlock) {
      const std::span<const double> block =
          scores.subspan(first, std::min<std::size_t>(kKeysOfBlock, scores.size() - first));
      const double block_most = *std::max_element(block.begin(), block.end());
      if (block_most == kHidden) continue;
      const double share = std::exp(block_most - most) / kWeightLimit;
      for (std::size_t j = 0; j < block.size(); ++j) {
        exact += std::exp(block[j] - most);
        const double weight = std::nearbyint(std::exp(block[j] - block_most) * kWeightLimit);
        used += weight * share;
        for (std::size_t c = 0; c < output.size(); ++c) {
          output[c] += weight * share * static_cast<double>(v.rows[(first + j) * output.size() + c]) *
                       static_cast<double>(v.scales[first / kKeysOfBlock * output.size() + c]);
        }
      }
    }
    for (double& value : output) value /= used;
    return most + std::log(exact);
  }

  bool rotate_;
};

}  // namespace

void rotate_head(std::span<float> row) {
  for (std::size_t i = 0; i < row.size(); ++i) row[i] *= rotation_sign(static_cast<std::int64_t>(i));
  for (std::size_t first = 0; first < row.size();) {
    std::size_t part = 1;
    while (part * 2 <= row.size() - first) part *= 2;
    const std::span<float> values = row.subspan(first, part);
    for (float& value : values) value *= 1.0F / std::sqrt(static_cast<float>(part));
    for (std::size_t distance = 1; distance < part; distance *= 2) {
      for (std::size_t i = 0; i < part; ++i) {
        if ((i & distance) != 0) continue;
        const float a = values[i];
        const float b = values[i + distance];
        values[i] = a + b;
        values[i + distance] = a - b;
      }
    }
    first += part;
  }
}

std::unique_ptr<AttentionRunner> reference_int8_runner(bool rotate) { return std::make_unique<Int8Runner>(rotate); }

}  // namespace rondo
