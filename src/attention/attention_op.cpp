#include "attention/attention_op.h"

#include <algorithm>
#include <limits>

#include "attention/quantized_attention.h"
#include "attention/reference_attention.h"

namespace rondo {
namespace {

double bias_at(const RefTensor& bias, std::int64_t batch, std::int64_t head, std::int64_t query, std::int64_t key) {
  const Shape& s = bias.shape;
  const std::int64_t row = ((s[0] == 1 ? 0 : batch) * s[1] + (s[1] == 1 ? 0 : head)) * s[2] + query;
  return bias.values[static_cast<std::size_t>(row * s[3] + key)];
}

}  // namespace

std::vector<TensorType> AttentionOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 3, 4);
  check_floating(inputs);
  const Shape& q = inputs[0].shape;
  const Shape& k = inputs[1].shape;
  const Shape& v = inputs[2].shape;
  const bool fits = q.rank() == 4 && k.rank() == 4 && v.rank() == 4 && q[0] == k[0] && k[0] == v[0] && k[1] == v[1] &&
                    k[2] == v[2] && q[3] == k[3] && k[2] > 0 && q[2] % k[2] == 0;
  check(fits, "query {}, key {} and value {} do not fit; allowed are [B, Sq, H, D], [B, Sk, Hk, D] and [B, Sk, Hk, Dv]",
        q.to_string(), k.to_string(), v.to_string());
  check(inputs[1].dtype == inputs[0].dtype && inputs[2].dtype == inputs[0].dtype,
        "query {}, key {} and value {} differ in dtype", dtype_name(inputs[0].dtype), dtype_name(inputs[1].dtype),
        dtype_name(inputs[2].dtype));
  if (inputs.size() == 4) {
    const Shape& bias = inputs[3].shape;
    check(inputs[3].dtype == DType::f32 && bias.rank() == 4 && (bias[0] == 1 || bias[0] == q[0]) &&
              (bias[1] == 1 || bias[1] == q[2]) && bias[2] == q[1] && bias[3] == k[1],
          "bias {} does not fit query {} and key {}; allowed is float32 [B or 1, H or 1, Sq, Sk]",
          inputs[3].to_string(), q.to_string(), k.to_string());
  }
  TensorType result = inputs[0];
  result.shape = {q[0], q[1], q[2], v[3]};
  if (!partial_) return {result};
  result.dtype = DType::f32;
  return {result, {{q[0], q[2], q[1]}, DType::f32, result.device}};
}

void AttentionOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  if (request_.quantization.active()) return quantized_reference(inputs, outputs);
  const Shape& q = inputs[0].shape;
  const Shape& k = inputs[1].shape;
  const std::int64_t value_dim = inputs[2].shape[3];
  const std::int64_t group = q[2] / k[2];
  std::span<double> target(outputs[0].values);
  for (std::int64_t b = 0; b < q[0]; ++b) {
    for (std::int64_t i = 0; i < q[1]; ++i) {
      for (std::int64_t h = 0; h < q[2]; ++h) {
        const auto row = [&](const RefTensor& rows, std::int64_t j) {
          return rows.values.data() + ((b * k[1] + j) * k[2] + h / group) * rows.shape[3];
        };
        const ReferenceKeys keys{k[1], [&](std::int64_t j) { return row(inputs[1], j); },
                                 [&](std::int64_t j) { return row(inputs[2], j); },
                                 [&](std::int64_t j) {
                                   if (causal_ && j > i + k[1] - q[1]) return -std::numeric_limits<double>::infinity();
                                   return inputs.size() == 4 ? bias_at(inputs[3], b, h, i, j) : 0.0;
                                 }};
        const auto query = static_cast<std::size_t>(((b * q[1] + i) * q[2] + h) * q[3]);
        const double lse =
            reference_attention_row(std::span(inputs[0].values).subspan(query, static_cast<std::size_t>(q[3])), keys,
                                    scale_, target.first(static_cast<std::size_t>(value_dim)));
        if (partial_) outputs[1].values[static_cast<std::size_t>((b * q[2] + h) * q[1] + i)] = lse;
        target = target.subspan(static_cast<std::size_t>(value_dim));
      }
    }
  }
}

void AttentionOp::quantized_reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const auto narrow = [](const RefTensor& operand) { return from_reference(operand, DType::f32); };
  AttentionCall call{
      narrow(inputs[0]), narrow(inputs[1]), narrow(inputs[2]), {}, narrow(outputs[0]), {}, {}, 0, false, 1};
  if (inputs.size() == 4) call.mask = narrow(inputs[3]);
  call.scale = static_cast<float>(scale_);
  call.causal = causal_;
  std::vector<AttentionSequence> sequences;
  for (std::int64_t b = 0; b < inputs[0].shape[0]; ++b)
    sequences.push_back({b, 0, inputs[0].shape[1], 0, inputs[1].shape[1]});
  call.sequences = sequences;
  if (partial_) call.lse = narrow(outputs[1]);
  reference_quantized_runner(request_.quantization)->run(call, {});
  std::copy_n(call.output.as<float>(), call.output.elements(), outputs[0].values.begin());
  if (partial_) std::copy_n(call.lse.as<float>(), call.lse.elements(), outputs[1].values.begin());
}

bool AttentionOp::falls_back_at(int step) const {
  return std::binary_search(request_.native_steps.begin(), request_.native_steps.end(), step);
}

double AttentionOp::flops(std::span<const TensorType> inputs) const {
  const Shape& q = inputs[0].shape;
  const auto scores = static_cast<double>(q[0] * q[1] * q[2] * inputs[1].shape[1]);
  return 2.0 * scores * static_cast<double>(q[3] + inputs[2].shape[3]);
}

}  // namespace rondo
