#include "attention/quantized_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "attention/reference_attention.h"
#include "core/cpu_level.h"
#include "core/float_formats.h"
#include "quantization/linear_quantization.h"

namespace rondo {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

/// Rows of one head.
struct Rows {
  std::vector<float> values;
  std::int64_t width;

  std::int64_t count() const { return static_cast<std::int64_t>(values.size()) / width; }
  std::span<float> row(std::int64_t i) {
    return std::span(values).subspan(static_cast<std::size_t>(i * width), static_cast<std::size_t>(width));
  }
};

/// A rectangle of rows: what shares a scale.
struct Block {
  std::int64_t first_row;
  std::int64_t rows;
  std::int64_t first_column;
  std::int64_t columns;
};

std::vector<Block> blocks_of(const Rows& rows, std::int64_t height, std::int64_t width) {
  std::vector<Block> blocks;
  for (std::int64_t i = 0; i < rows.count(); i += height) {
    for (std::int64_t c = 0; c < rows.width; c += width)
      blocks.push_back({i, std::min(height, rows.count() - i), c, std::min(width, rows.width - c)});
  }
  return blocks;
}

float larger(float a, float b) { return std::isnan(a) || std::isnan(b) ? NAN : std::max(a, b); }

/// What the values of each block are once they have been multiples of a scale: round(value * limit / largest) * largest
/// / limit. Where a value is not finite, nothing of its block is. With `shared` that is the largest of every block.
template <class Round>
std::vector<double> quantized(Rows rows, std::int64_t height, std::int64_t width, float limit, const Round& round,
                              std::optional<float> shared = std::nullopt) {
  std::vector<double> result(rows.values.size());
  for (const Block& b : blocks_of(rows, height, width)) {
    const auto over_values = [&](const auto& visit) {
      for (std::int64_t i = b.first_row; i < b.first_row + b.rows; ++i) {
        for (std::int64_t c = b.first_column; c < b.first_column + b.columns; ++c)
          visit(static_cast<std::size_t>(i * rows.width + c));
      }
    };
    float largest = shared.value_or(0.0F);
    if (!shared) over_values([&](std::size_t at) { largest = larger(largest, std::abs(rows.values[at])); });
    const bool has_scale = largest > kLeastMagnitude && std::isfinite(largest);
    const float inverse = has_scale ? limit / largest : 0.0F;
    const double scale = static_cast<double>(largest / limit);
    over_values([&](std::size_t at) {
      result[at] = (has_scale ? static_cast<double>(round(rows.values[at] * inverse)) : 0.0) * scale;
    });
  }
  return result;
}

std::vector<double> int8_blocks(Rows rows, std::int64_t height, std::int64_t width, int limit) {
  return quantized(std::move(rows), height, width, static_cast<float>(limit),
                   [](float value) { return std::nearbyint(value); });
}

std::vector<double> e4m3_blocks(Rows rows, std::int64_t height, std::optional<float> shared) {
  return quantized(
      std::move(rows), height, kE4m3Columns, kE4m3Limit,
      [](float value) { return f8_e4m3_to_float(float_to_f8_e4m3(value)); }, shared);
}

double significant(double value, int bits) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
}

class QuantizedRunner final : public AttentionRunner {
 public:
  QuantizedRunner(const AttentionQuantization& quantization, bool scales_whole_tensors)
      : quantization_(quantization), scales_whole_tensors_(scales_whole_tensors) {}
  std::size_t scratch_bytes() const override { return 0; }

  void run(const AttentionCall& call, std::span<std::byte> /*scratch*/) const override {
    const ReferenceMask mask(call.mask);
    SharedLargest shared;
    const auto for_each_head = [&](const auto& visit) {
      for (const AttentionSequence& sequence : call.sequences) {
        for (std::int64_t head = 0; head < call.query.shape()[2]; ++head) visit(sequence, head);
      }
    };
    if (scales_whole_tensors_) {
      shared = {0.0F, 0.0F, 0.0F};
      for_each_head([&](const AttentionSequence& sequence, std::int64_t head) {
        const HeadOperands operands = prepare(call, sequence, head);
        const auto take = [](const Rows& rows, std::optional<float>& largest) {
          for (const float value : rows.values) largest = larger(*largest, std::abs(value));
        };
        take(operands.queries, shared.query);
        take(operands.keys, shared.key);
        take(operands.values, shared.value);
      });
    }
    for_each_head(
        [&](const AttentionSequence& sequence, std::int64_t head) { run_head(call, sequence, head, mask, shared); });
  }

 private:
  /// Of whole tensors; empty where each block has its own.
  struct SharedLargest {
    std::optional<float> query;
    std::optional<float> key;
    std::optional<float> value;
  };
  struct HeadOperands {
    Rows queries;
    Rows keys;
    Rows values;
    std::vector<double> lost;  // what each query's scores lost by smoothing
  };

  /// Smoothed and turned.
  HeadOperands prepare(const AttentionCall& call, const AttentionSequence& s, std::int64_t head) const {
    const std::int64_t key_head = head / (call.query.shape()[2] / call.key.shape()[2]);
    const auto rows_of = [&](const Tensor& tensor, std::int64_t begin, std::int64_t count, std::int64_t at) {
      const std::vector<double> values = reference_head(tensor, s.batch, begin, count, at);
      return Rows{{values.begin(), values.end()}, tensor.shape()[3]};
    };
    HeadOperands operands{rows_of(call.query, s.query_begin, s.queries, head),
                          rows_of(call.key, s.key_begin, s.keys, key_head),
                          rows_of(call.value, s.key_begin, s.keys, key_head),
                          {}};
    operands.lost = smooth(operands.queries, operands.keys, static_cast<double>(call.scale));
    if (quantization_.rotates) {
      for (Rows* rows : {&operands.queries, &operands.keys}) {
        for (std::int64_t i = 0; i < rows->count(); ++i) rotate_head(rows->row(i));
      }
    }
    return operands;
  }

  void run_head(const AttentionCall& call, const AttentionSequence& s, std::int64_t head, const ReferenceMask& mask,
                const SharedLargest& shared) const {
    auto [queries, keys, values, lost] = prepare(call, s, head);
    const std::int64_t width = queries.width;
    std::vector<double> row(static_cast<std::size_t>(values.width));
    const bool is_int8 = quantization_.dtype == KvCacheDtype::int8;
    const std::vector<double> q = is_int8 ? int8_blocks(std::move(queries), 1, width, int8_ranges().query)
                                          : e4m3_blocks(std::move(queries), kE4m3Queries, shared.query);
    const std::vector<double> k = is_int8 ? int8_blocks(std::move(keys), 1, width, kInt8Limit)
                                          : e4m3_blocks(std::move(keys), kE4m3Keys, shared.key);
    const std::vector<double> v = is_int8 ? int8_blocks(std::move(values), kKeysOfBlock, 1, kInt8Limit)
                                          : e4m3_blocks(std::move(values), kE4m3Keys, shared.value);

    std::vector<double> scores(static_cast<std::size_t>(s.keys));
    for (std::int64_t i = 0; i < s.queries; ++i) {
      for (std::int64_t j = 0; j < s.keys; ++j) {
        double sum = 0;
        for (std::int64_t d = 0; d < width; ++d)
          sum += q[static_cast<std::size_t>(i * width + d)] * k[static_cast<std::size_t>(j * width + d)];
        const bool blind = call.causal && j > i + s.keys - s.queries;
        // What causality hides is hidden whatever it is.
        scores[static_cast<std::size_t>(j)] =
            blind ? kHidden : mask.at(s.batch, head, i, j) + sum * static_cast<double>(call.scale);
      }
      const double lse = mix(scores, v, row);
      store_reference_row(call, s, head, i, row, lse + (lost.empty() ? 0 : lost[static_cast<std::size_t>(i)]));
    }
  }

  /// Takes their mean from the keys; returns what each query's scores lose by it.
  std::vector<double> smooth(Rows& queries, Rows& keys, double scale) const {
    if (!quantization_.smooths || keys.count() == 0) return {};
    const std::vector<float> mean = key_mean(keys.values, keys.width);
    for (std::int64_t j = 0; j < keys.count(); ++j) {
      for (std::size_t d = 0; d < mean.size(); ++d) keys.row(j)[d] -= mean[d];
    }
    std::vector<double> lost;
    for (std::int64_t i = 0; i < queries.count(); ++i) {
      double sum = 0;
      for (std::size_t d = 0; d < mean.size(); ++d)
        sum += static_cast<double>(queries.row(i)[d]) * static_cast<double>(mean[d]);
      lost.push_back(sum * scale);
    }
    return lost;
  }

  /// Blocks of keys, each with weights of its own, put together; returns the LSE.
  double mix(std::span<const double> scores, std::span<const double> values, std::span<double> output) const {
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
      for (std::size_t j = 0; j < block.size(); ++j) {
        exact += std::exp(block[j] - most);
        const double weight = rounded_weight(block[j], block_most, most);
        used += weight;
        for (std::size_t c = 0; c < output.size(); ++c) output[c] += weight * values[(first + j) * output.size() + c];
      }
    }
    for (double& value : output) value /= used;
    return most + std::log(exact);
  }

  double rounded_weight(double score, double block_most, double most) const {
    if (quantization_.dtype == KvCacheDtype::int8) {
      const double limit = int8_ranges().weight;
      return std::nearbyint(std::exp(score - block_most) * limit) * std::exp(block_most - most) / limit;
    }
    const double log2_e = 1.4426950408889634;
    return significant(std::exp2(score * log2_e - std::ceil(most * log2_e)), kE4m3Bits);
  }

  AttentionQuantization quantization_;
  bool scales_whole_tensors_;
};

}  // namespace

Int8Ranges int8_ranges() {
  if (cpu_level() >= CpuLevel::avx512_vnni) return {kInt8Limit, kWeightLimit};
  return {kNarrowQueryLimit, kNarrowWeightLimit};
}

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

std::vector<float> key_mean(std::span<const float> rows, std::int64_t width) {
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / width;
  std::vector<float> mean(static_cast<std::size_t>(width));
  for (std::size_t d = 0; d < mean.size(); ++d) {
    float total = 0;
    for (std::int64_t first = 0; first < count; first += kKeysOfBlock) {
      float sum = 0;
      for (std::int64_t j = first; j < std::min(first + kKeysOfBlock, count); ++j)
        sum += rows[static_cast<std::size_t>(j * width) + d];
      total += sum;
    }
    mean[d] = total / static_cast<float>(count);
  }
  return mean;
}

std::unique_ptr<AttentionRunner> reference_quantized_runner(const AttentionQuantization& quantization,
                                                            bool scales_whole_tensors) {
  return std::make_unique<QuantizedRunner>(quantization, scales_whole_tensors);
}

}  // namespace rondo
