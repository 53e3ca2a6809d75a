#include "attention/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention/quantized_attention.h"

namespace rondo {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

class ReferenceRunner final : public AttentionRunner {
 public:
  std::size_t scratch_bytes() const override { return 0; }
  void run(const AttentionCall& call, std::span<std::byte> /*scratch*/) const override {
    const ReferenceMask mask(call.mask);
    for (const AttentionSequence& sequence : call.sequences) run_sequence(call, sequence, mask);
  }

 private:
  static void run_sequence(const AttentionCall& call, const AttentionSequence& s, const ReferenceMask& mask) {
    const std::int64_t heads = call.query.shape()[2];
    const std::int64_t group = heads / call.key.shape()[2];
    const std::int64_t width = call.query.shape()[3];
    const std::int64_t value_width = call.value.shape()[3];
    std::vector<double> row(static_cast<std::size_t>(value_width));
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::vector<double> q = reference_head(call.query, s.batch, s.query_begin, s.queries, h);
      const std::vector<double> k = reference_head(call.key, s.batch, s.key_begin, s.keys, h / group);
      const std::vector<double> v = reference_head(call.value, s.batch, s.key_begin, s.keys, h / group);
      for (std::int64_t i = 0; i < s.queries; ++i) {
        const ReferenceKeys keys{s.keys, [&](std::int64_t j) { return k.data() + j * width; },
                                 [&](std::int64_t j) { return v.data() + j * value_width; },
                                 [&](std::int64_t j) {
                                   return call.causal && j > i + s.keys - s.queries ? kHidden
                                                                                    : mask.at(s.batch, h, i, j);
                                 }};
        const auto query = std::span(q).subspan(static_cast<std::size_t>(i * width), static_cast<std::size_t>(width));
        const double lse = reference_attention_row(query, keys, call.scale, row);
        store_reference_row(call, s, h, i, row, lse);
      }
    }
  }
};

class ReferenceKernel final : public AttentionKernel {
 public:
  std::string_view name() const override { return "reference"; }
  std::string_view description() const override { return "float64 inside; every dtype, mask and shape; slow"; }
  bool takes(KvCacheDtype /*dtype*/) const override { return true; }
  AttentionRefusal supports(const AttentionProblem& /*problem*/) const override { return std::nullopt; }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    if (problem.quantization.active()) return reference_quantized_runner(problem.quantization);
    return std::make_unique<ReferenceRunner>();
  }
};

}  // namespace

std::vector<double> reference_head(const Tensor& tensor, std::int64_t batch, std::int64_t begin, std::int64_t count,
                                   std::int64_t head) {
  const Tensor rows =
      tensor.sliced(0, batch, batch + 1).sliced(1, begin, begin + count).sliced(2, head, head + 1).to_float32();
  return {rows.as<float>(), rows.as<float>() + rows.elements()};
}

ReferenceMask::ReferenceMask(const Tensor& mask) {
  if (!mask.defined()) return;
  shape_ = mask.shape();
  const Tensor floats = mask.to_float32();
  values_.assign(floats.as<float>(), floats.as<float>() + floats.elements());
  if (mask.dtype() == DType::boolean)
    for (double& value : values_) value = value != 0 ? 0.0 : kHidden;
}

double ReferenceMask::at(std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) const {
  if (values_.empty()) return 0;
  const auto index = [&](std::size_t axis, std::int64_t i) { return shape_[axis] == 1 ? 0 : i; };
  const std::int64_t row = (index(0, batch) * shape_[1] + index(1, head)) * shape_[2] + index(2, query);
  return values_[static_cast<std::size_t>(row * shape_[3] + index(3, key))];
}

void store_reference_row(const AttentionCall& call, const AttentionSequence& s, std::int64_t head, std::int64_t query,
                         std::span<const double> row, double lse) {
  const std::int64_t position = s.query_begin + query;
  Tensor values = Tensor::empty({static_cast<std::int64_t>(row.size())}, DType::f32);
  std::transform(row.begin(), row.end(), values.as<float>(), [](double x) { return static_cast<float>(x); });
  const Tensor narrow = values.to(call.output.dtype());
  Tensor target =
      call.output.sliced(0, s.batch, s.batch + 1).sliced(1, position, position + 1).sliced(2, head, head + 1);
  std::memcpy(target.data(), narrow.data(), narrow.bytes());
  if (!call.lse.defined()) return;
  const Shape& strides = call.lse.strides();
  Tensor lses = call.lse;
  lses.as<float>()[s.batch * strides[0] + head * strides[1] + position * strides[2]] = static_cast<float>(lse);
}

double reference_attention_row(std::span<const double> query, const ReferenceKeys& keys, double scale,
                               std::span<double> output) {
  std::vector<double> scores(static_cast<std::size_t>(keys.count));
  double most = kHidden;
  for (std::int64_t j = 0; j < keys.count; ++j) {
    const double* key = keys.key(j);
    double score = 0;
    for (std::size_t d = 0; d < query.size(); ++d) score += query[d] * key[d];
    score = score * scale + keys.bias(j);
    scores[static_cast<std::size_t>(j)] = score;
    // NaN is not lost: it becomes the largest.
    if (std::isnan(score) || score > most) most = score;
  }
  std::fill(output.begin(), output.end(), 0.0);
  if (most == kHidden) return kHidden;
  double sum = 0;
  for (std::int64_t j = 0; j < keys.count; ++j) {
    const double weight = std::exp(scores[static_cast<std::size_t>(j)] - most);
    sum += weight;
    const double* value = keys.value(j);
    for (std::size_t d = 0; d < output.size(); ++d) output[d] += weight * value[d];
  }
  for (double& value : output) value /= sum;
  return most + std::log(sum);
}

std::shared_ptr<const AttentionKernel> reference_attention_kernel() { return std::make_shared<ReferenceKernel>(); }

}  // namespace rondo
