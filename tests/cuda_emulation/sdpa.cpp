// What cuDNN's attention does, in plain loops: sums in doubles; of operands in e4m3 weights are rounded to it too.
#include "backends/cuda/sdpa.h"

#include <algorithm>
#include <cmath>

#include "core/float_formats.h"
#include "emulated_gpu.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

double element(const Tensor& x, std::int64_t offset) {
  switch (x.dtype()) {
    case DType::bf16: return static_cast<double>(bf16_to_float(static_cast<const std::uint16_t*>(x.data())[offset]));
    case DType::f16: return static_cast<double>(f16_to_float(static_cast<const std::uint16_t*>(x.data())[offset]));
    default: return static_cast<double>(f8_e4m3_to_float(static_cast<const std::uint8_t*>(x.data())[offset]));
  }
}

void store(const Tensor& y, std::int64_t offset, float value) {
  void* const data = const_cast<void*>(y.data());
  switch (y.dtype()) {
    case DType::bf16: static_cast<std::uint16_t*>(data)[offset] = float_to_bf16(value); break;
    case DType::f16: static_cast<std::uint16_t*>(data)[offset] = float_to_f16(value); break;
    default: static_cast<std::uint8_t*>(data)[offset] = float_to_f8_e4m3(value);
  }
}

/// One sequence of a call: how long it is, where its rows begin.
struct Sequence {
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t query;
  std::int64_t key;
  std::int64_t value;
  std::int64_t output;
};

class LoopSdpa final : public Sdpa {
 public:
  explicit LoopSdpa(const SdpaProblem& problem) : p_(problem) {}

  void run(const CudaRun& run, const SdpaOperands& o) const override {
    SdpaOperands operands = o;
    for (Tensor* operand : {&operands.query, &operands.key, &operands.value, &operands.output, &operands.lse})
      *operand = unowned(*operand);
    submit(run.handle(), [this, operands] { attend(operands); });
  }

 private:
  void attend(const SdpaOperands& o) const {
    for (std::int64_t b = 0; b < p_.query.shape()[0]; ++b) {
      const Sequence s = sequence(o, b);
      for (std::int64_t n = 0; n < p_.query.shape()[2]; ++n) {
        for (std::int64_t i = 0; i < s.queries; ++i) row(o, s, b, n, i);
      }
    }
  }

  Sequence sequence(const SdpaOperands& o, std::int64_t b) const {
    if (p_.packed) {
      const SdpaSequences& of = o.sequences;
      return {of.query_lengths[b], of.key_lengths[b],  of.query_begins[b],
              of.key_begins[b],    of.value_begins[b], of.output_begins[b]};
    }
    return {p_.query.shape()[1],     p_.key.shape()[1],         b * p_.query.strides()[0],
            b * p_.key.strides()[0], b * p_.value.strides()[0], b * p_.output.strides()[0]};
  }

  void row(const SdpaOperands& o, const Sequence& s, std::int64_t b, std::int64_t n, std::int64_t i) const {
    const bool narrow = p_.query.dtype() == DType::f8_e4m3;
    const std::int64_t key_head = n / (p_.query.shape()[2] / p_.key.shape()[2]);
    const auto scale = [&](const float* factor) { return narrow ? static_cast<double>(*factor) : 1.0; };
    const double of_scores = static_cast<double>(p_.scale) * scale(o.scales.query) * scale(o.scales.key);
    const std::int64_t seen = p_.causal ? i + 1 + s.keys - s.queries : s.keys;
    const std::int64_t width = p_.query.shape()[3];
    std::vector<double> scores;
    double most = -INFINITY;
    for (std::int64_t j = 0; j < seen; ++j) {
      double sum = 0;
      for (std::int64_t d = 0; d < width; ++d) {
        sum += element(o.query, s.query + i * p_.query.strides()[1] + n * p_.query.strides()[2] + d) *
               element(o.key, s.key + j * p_.key.strides()[1] + key_head * p_.key.strides()[2] + d);
      }
      scores.push_back(sum * of_scores);
      most = std::isnan(sum) ? NAN : std::max(most, scores.back());
    }
    double total = 0;
    std::vector<double> weights;
    for (const double score : scores) {
      const double weight = std::exp(score - most);
      total += weight;
      weights.push_back(rounded(weight, o, narrow));
    }
    for (std::int64_t d = 0; d < p_.value.shape()[3]; ++d) {
      double sum = 0;
      for (std::int64_t j = 0; j < seen; ++j)
        sum += weights[static_cast<std::size_t>(j)] *
               element(o.value, s.value + j * p_.value.strides()[1] + key_head * p_.value.strides()[2] + d);
      const double result = sum / total * scale(o.scales.value) * scale(o.scales.output_factor);
      store(o.output, s.output + i * p_.output.strides()[1] + n * p_.output.strides()[2] + d,
            static_cast<float>(result));
    }
    if (!o.lse.defined()) return;
    const_cast<float*>(o.lse.as<float>())[b * o.lse.strides()[0] + n * o.lse.strides()[1] + i] =
        static_cast<float>(most + std::log(total));
  }

  double rounded(double weight, const SdpaOperands& o, bool narrow) const {
    if (!narrow) return static_cast<double>(bf16_to_float(float_to_bf16(static_cast<float>(weight))));
    const auto scaled = static_cast<float>(weight) * *o.scales.weight_factor;
    return static_cast<double>(f8_e4m3_to_float(float_to_f8_e4m3(scaled)) * *o.scales.weight);
  }

  SdpaProblem p_;
};

}  // namespace

const std::string& sdpa_missing() {
  static const std::string none;
  return none;
}

/// As cuDNN has it: e4m3 from Hopper on, which gives e4m3 there and has no causality but of squares. Hopper is played
/// with version 9.13, Blackwell with 9.23.
std::unique_ptr<const Sdpa> make_sdpa(const SdpaProblem& problem) {
  constexpr int kHopper = 90;
  constexpr int kBlackwell = 100;
  const int capability = emulated_capability();
  if (problem.query.dtype() == DType::f8_e4m3) {
    const bool square = !problem.packed && problem.query.shape()[1] == problem.key.shape()[1];
    if (capability < kHopper) throw Unsupported("cuDNN: e4m3 needs Hopper or later");
    if (capability < kBlackwell && problem.output.dtype() != DType::f8_e4m3)
      throw Unsupported("cuDNN: e4m3 with another output needs Blackwell or later");
    if (capability < kBlackwell && problem.packed)
      throw Unsupported("cuDNN: packed sequences in e4m3 need version 9.23");
    if (capability < kBlackwell && problem.causal && !square)
      throw Unsupported("cuDNN: e4m3 with this causality needs Blackwell or later");
  }
  return std::make_unique<LoopSdpa>(problem);
}

}  // namespace rondo::cuda
