#include "functional/random_forward.h"

#include <utility>

#include "attention/quantized_attention.h"
#include "backends/attention_backends.h"

namespace rondo {

AttentionResult forward(const RandomAttention& operands, AttentionOptions options) {
  // Operands are drawn on the CPU; who measures moves them first.
  if (operands.query.device() != operands.problem.device) return forward(on_device(operands), std::move(options));
  options.scale = operands.scale;
  options.causal = operands.problem.causal;
  options.return_lse = operands.problem.lse;
  options.kv_cache_dtype = operands.problem.quantization.dtype;
  options.rotate = operands.problem.quantization.rotates;
  options.smooth_k = operands.problem.quantization.smooths;
  options.layout = AttentionLayout::bsnd;  // the operands are views
  if (!operands.problem.varlen)
    return attention_forward(operands.query, operands.key, operands.value, operands.mask, options);
  VarlenAttentionOptions varlen;
  varlen.scale = options.scale;
  varlen.causal = options.causal;
  varlen.return_lse = options.return_lse;
  varlen.backend = options.backend;
  varlen.opt_mode = options.opt_mode;
  varlen.tune = options.tune;
  varlen.kv_cache_dtype = options.kv_cache_dtype;
  varlen.rotate = options.rotate;
  varlen.smooth_k = options.smooth_k;
  varlen.threads = options.threads;
  const auto packed = [](const Tensor& rows) {
    const Shape& s = rows.shape();
    const Shape& strides = rows.strides();
    return rows.restrided({s[1], s[2], s[3]}, {strides[1], strides[2], strides[3]});
  };
  return attention_forward_varlen(packed(operands.query), packed(operands.key), packed(operands.value),
                                  operands.cu_seqlens_q, operands.cu_seqlens_k, varlen);
}

AttentionResult reference_forward(const RandomAttention& operands, bool scales_whole_tensors) {
  RandomAttention on_cpu = operands;
  on_cpu.problem.device = {};
  if (scales_whole_tensors && operands.problem.quantization.active()) {
    on_cpu = on_device(std::move(on_cpu));
    const AttentionCall call = on_cpu.call(1);
    reference_quantized_runner(operands.problem.quantization, true)->run(call, {});
    if (!operands.problem.varlen) return {call.output, call.lse};
    const auto packed = [](const Tensor& x) {  // [1, ...] as attention_forward_varlen gives it
      const Shape& s = x.shape();
      return x.reshaped(s.rank() == 4 ? Shape{s[1], s[2], s[3]} : Shape{s[1], s[2]});
    };
    return {packed(call.output), call.lse.defined() ? packed(call.lse) : Tensor()};
  }
  AttentionOptions options;
  options.backend = "reference";
  return forward(on_cpu, options);
}

}  // namespace rondo
