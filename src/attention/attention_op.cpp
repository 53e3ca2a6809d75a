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
  std::int64_t covered = 0;
  for (const AttentionSequence& s : sequences_) {
    check(q[0] == 1 && inputs.size() == 3 && s.batch == 0 && s.query_begin == covered && s.queries >= 0 &&
              s.keys >= 0 && s.key_begin >= 0 && s.key_begin + s.keys <= k[1],
          "packed sequences do not fit query {} and key {}; allowed are a batch of 1, no bias, queries one behind the "
          "other",
          q.to_string(), k.to_string());
    covered += s.queries;
  }
  check(sequences_.empty() || covered == q[1], "packed sequences have {} queries; query {} differs", covered,
        q.to_string());
  TensorType result = inputs[0];
  result.shape = {q[0], q[1], q[2], v[3]};
  if (!partial_) return {result};
  result.dtype = DType::f32;
  return {result, {{q[0], q[2], q[1]}, DType::f32, result.device}};
}

std::string AttentionOp::sequence_text() const {
  std::string text;
  for (const AttentionSequence& s : sequences_)
    text += fmt::format(" {}+{}:{}+{}", s.query_begin, s.queries, s.key_begin, s.keys);
  return text;
}

std::vector<AttentionSequence> AttentionOp::sequences_of(const Shape& query, const Shape& key) const {
  if (!sequences_.empty()) return sequences_;
  std::vector<AttentionSequence> each;
  for (std::int64_t b = 0; b < query[0]; ++b) each.push_back({b, 0, query[1], 0, key[1]});
  return each;
}

void AttentionOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  if (request_.quantization.active()) return quantized_reference(inputs, outputs);
  const Shape& q = inputs[0].shape;
  const Shape& k = inputs[1].shape;
  const std::int64_t value_dim = inputs[2].shape[3];
  const std::int64_t group = q[2] / k[2];
  for (const AttentionSequence& s : sequences_of(q, k)) {
    for (std::int64_t i = 0; i < s.queries; ++i) {
      for (std::int64_t h = 0; h < q[2]; ++h) {
        const auto row = [&](const RefTensor& rows, std::int64_t j) {
          return rows.values.data() + ((s.batch * k[1] + s.key_begin + j) * k[2] + h / group) * rows.shape[3];
        };
        const ReferenceKeys keys{s.keys, [&](std::int64_t j) { return row(inputs[1], j); },
                                 [&](std::int64_t j) { return row(inputs[2], j); },
                                 [&](std::int64_t j) {
                                   if (causal_ && j > i + s.keys - s.queries)
                                     return -std::numeric_limits<double>::infinity();
                                   return inputs.size() == 4 ? bias_at(inputs[3], s.batch, h, i, j) : 0.0;
                                 }};
        const std::int64_t token = s.query_begin + i;
        const std::int64_t index = (s.batch * q[1] + token) * q[2] + h;
        const double lse = reference_attention_row(
            std::span(inputs[0].values).subspan(static_cast<std::size_t>(index * q[3]), static_cast<std::size_t>(q[3])),
            keys, scale_,
            std::span(outputs[0].values)
                .subspan(static_cast<std::size_t>(index * value_dim), static_cast<std::size_t>(value_dim)));
        if (partial_) outputs[1].values[static_cast<std::size_t>((s.batch * q[2] + h) * q[1] + token)] = lse;
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
  const std::vector<AttentionSequence> sequences = sequences_of(inputs[0].shape, inputs[1].shape);
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
  std::int64_t scores = 0;
  for (const AttentionSequence& s : sequences_of(q, inputs[1].shape)) scores += s.queries * s.keys * q[2];
  return 2.0 * static_cast<double>(scores) * static_cast<double>(q[3] + inputs[2].shape[3]);
}

}  // namespace rondo
