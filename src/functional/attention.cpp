// The public attention functions: operands checked and brought to BSND, a kernel selected, its runner run once.
#include "rondo/attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "attention/merge_states.h"
#include "backends/attention_backends.h"
#include "backends/device_work.h"
#include "backends/devices.h"
#include "core/threads.h"
#include "functional/dense_rows.h"
#include "rondo/error.h"

namespace rondo {
namespace {

template <typename... Args>
void check(bool holds, fmt::format_string<Args...> message, Args&&... args) {
  if (!holds) throw InvalidArgument("attention: " + fmt::format(message, std::forward<Args>(args)...));
}

std::string describe(const Tensor& tensor) {
  return fmt::format("{} {}", dtype_name(tensor.dtype()), tensor.shape().to_string());
}

/// Any layout as BSND, a view.
Tensor to_bsnd(const char* what, const Tensor& tensor, AttentionLayout layout, std::int64_t heads) {
  check(tensor.defined(), "{} is missing", what);
  if (layout != AttentionLayout::bsh) {
    check(tensor.shape().rank() == 4, "{} {} has {} axes; allowed are 4 (or BSH with num_heads)", what,
          describe(tensor), tensor.shape().rank());
    return layout == AttentionLayout::bnsd ? tensor.transposed(1, 2) : tensor;
  }
  const Shape& s = tensor.shape();
  check(s.rank() == 3, "{} {} has {} axes; BSH has 3", what, describe(tensor), s.rank());
  check(heads > 0 && s[2] % heads == 0, "{} {} is not divided by {} heads", what, describe(tensor), heads);
  const Shape& strides = tensor.strides();
  const std::int64_t width = s[2] / heads;
  return tensor.restrided({s[0], s[1], heads, width}, {strides[0], strides[1], width * strides[2], strides[2]});
}

/// Memory for a result in the caller's layout, and its BSND view.
struct Result {
  Tensor stored;
  Tensor bsnd;
};

Result make_output(const Shape& bsnd, AttentionLayout layout, const Tensor& query) {
  const DType dtype = query.dtype();
  if (layout == AttentionLayout::bnsd) {
    const Tensor stored = empty_on(query.device(), {bsnd[0], bsnd[2], bsnd[1], bsnd[3]}, dtype);
    return {stored, stored.transposed(1, 2)};
  }
  const Tensor dense = empty_on(query.device(), bsnd, dtype);
  return {layout == AttentionLayout::bsh ? dense.reshaped({bsnd[0], bsnd[1], bsnd[2] * bsnd[3]}) : dense, dense};
}

struct Operands {
  Tensor query;
  Tensor key;
  Tensor value;
  Tensor mask;
};

void check_operands(const Operands& o) {
  const DType dtype = o.query.dtype();
  check(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
        "query is {}; allowed are float32, bfloat16 and float16", dtype_name(dtype));
  check(o.key.dtype() == dtype && o.value.dtype() == dtype, "query is {}, key {} and value {}; they must be alike",
        dtype_name(dtype), dtype_name(o.key.dtype()), dtype_name(o.value.dtype()));
  check(o.key.device() == o.query.device() && o.value.device() == o.query.device(),
        "query is on {}, key on {} and value on {}; they must be on one device", to_string(o.query.device()),
        to_string(o.key.device()), to_string(o.value.device()));
  const Shape& q = o.query.shape();
  const Shape& k = o.key.shape();
  const Shape& v = o.value.shape();
  const bool fits = q[0] == k[0] && k[0] == v[0] && k[1] == v[1] && k[2] == v[2] && q[3] == k[3];
  if (!fits) {  // the texts cost as much as a tenth of a short call
    check(false,
          "query {}, key {} and value {} (as BSND) do not fit; allowed are [B, Sq, N, D], [B, Sk, Nk, D] and [B, Sk, "
          "Nk, Dv]",
          q.to_string(), k.to_string(), v.to_string());
  }
  check(k[2] > 0 ? q[2] % k[2] == 0 : q[2] == 0, "{} query heads are no multiple of {} key heads", q[2], k[2]);
  check(q[3] > 0 && v[3] > 0, "head dims {} and {} are given; allowed is 1 and more", q[3], v[3]);
}

void check_mask(const Tensor& mask, const Shape& q, std::int64_t keys) {
  if (!mask.defined()) return;
  const DType dtype = mask.dtype();
  check(dtype == DType::boolean || dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
        "the mask is {}; allowed are bool (true = keep) and float32, bfloat16 or float16 (added to the scores)",
        dtype_name(dtype));
  const Shape wanted{q[0], q[2], q[1], keys};
  const Shape& s = mask.shape();
  bool fits = s.rank() == 4;
  for (std::size_t axis = 0; fits && axis < 4; ++axis) fits = s[axis] == wanted[axis] || s[axis] == 1;
  check(fits, "the mask {} does not fit; allowed is [B, N, Sq, Sk] = {}, each axis may be 1", s.to_string(),
        wanted.to_string());
}

/// A mask that is the same for all keys, as one with a value for each.
Tensor with_all_keys(const Tensor& mask, std::int64_t keys) {
  if (!mask.defined() || mask.shape()[3] == keys) return mask;
  Shape shape = mask.shape();
  Shape strides = mask.strides();
  shape[3] = keys;
  strides[3] = 0;
  return mask.restrided(shape, strides);
}

template <class Options>
AttentionProblem problem_of(const Operands& o, const Options& options) {
  AttentionProblem problem = describe_operands(o.query, o.key, o.value, o.mask);
  problem.own_scale = options.scale.has_value();
  problem.causal = options.causal;
  problem.lse = options.return_lse;
  problem.quantization = attention_quantization(options.kv_cache_dtype, options.rotate, options.smooth_k);
  return problem;
}

int team_size(int threads) {
  check(threads >= 0 && threads <= 1024, "threads: {} is given; allowed is 0 to 1024", threads);
  return available_threads(threads == 0 ? default_threads() : threads);
}

float scale_of(const std::optional<double>& scale, std::int64_t head_dim) {
  check(!scale || std::isfinite(static_cast<float>(*scale)), "scale: {} is given; allowed is what float32 can hold",
        scale.value_or(0));
  return static_cast<float>(scale.value_or(1.0 / std::sqrt(static_cast<double>(head_dim))));
}

Operands fixed_operands(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                        const AttentionOptions& options) {
  std::int64_t key_heads = 0;
  if (options.layout == AttentionLayout::bsh) {
    check(options.num_heads > 0, "num_heads: {} is given; BSH needs the number of query heads", options.num_heads);
    // Query and key have one head dim, which tells the key's heads.
    const bool known = query.shape().rank() == 3 && key.shape().rank() == 3 && query.shape()[2] > 0;
    key_heads = known ? key.shape()[2] * options.num_heads / query.shape()[2] : 0;
  }
  Operands o{with_dense_rows(to_bsnd("query", query, options.layout, options.num_heads)),
             with_dense_rows(to_bsnd("key", key, options.layout, key_heads)),
             with_dense_rows(to_bsnd("value", value, options.layout, key_heads)),
             {}};
  check_operands(o);
  check(options.num_heads == 0 || options.num_heads == o.query.shape()[2], "num_heads: {} is given; query has {} heads",
        options.num_heads, o.query.shape()[2]);
  check_mask(mask, o.query.shape(), o.key.shape()[1]);
  check(!mask.defined() || mask.device() == o.query.device(), "the mask is on {}, query on {}; allowed is one device",
        to_string(mask.device()), to_string(o.query.device()));
  if (mask.defined()) o.mask = with_dense_rows(with_all_keys(mask, o.key.shape()[1]));
  return o;
}

/// The problem with its free choices made.
template <class Options>
AttentionProblem settled(AttentionProblem problem, const Options& options) {
  if (!options.smooth_k) settle_smoothing(problem, {options.backend});
  return problem;
}

template <class Options>
AttentionChoice choose(const AttentionProblem& problem, int threads, const Options& options) {
  return attention_tuner().choose(problem, threads, {options.backend, options.opt_mode, options.tune});
}

template <class Options>
void run(const AttentionProblem& described, AttentionCall& call, const Options& options) {
  const AttentionProblem problem = settled(described, options);
  const AttentionChoice choice = choose(problem, call.threads, options);
  if (call.output.elements() == 0) return;
  const auto runner = choice.kernel->make(problem, choice.tiling, call.threads);
  Tensor scratch = empty_on(problem.device, {static_cast<std::int64_t>(runner->scratch_bytes())}, DType::u8);
  const std::span<std::byte> scratch_bytes(scratch.as<std::byte>(), scratch.bytes());
  if (!problem.device.is_cpu()) {
    DeviceWork work(open_device(problem.device));
    call.device = &work.device();
    call.stream = &work.stream();
    runner->run(call, scratch_bytes);
    return work.finish();
  }
  const ThreadTeamScope team(call.threads);
  runner->run(call, scratch_bytes);
}

/// Checks one list of sequence boundaries.
void check_boundaries(const char* name, std::span<const std::int32_t> list, std::int64_t tokens) {
  check(!list.empty() && list.front() == 0, "{} must start with 0", name);
  for (std::size_t i = 1; i < list.size(); ++i) {
    check(list[i] >= list[i - 1], "{} falls from {} to {}", name, list[i - 1], list[i]);
  }
  check(list.back() == tokens, "{} ends at {}; there are {} tokens", name, list.back(), tokens);
}

}  // namespace

AttentionResult attention_forward(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                  const AttentionOptions& options) {
  const Operands o = fixed_operands(query, key, value, mask, options);
  const Shape& q = o.query.shape();
  const Result output = make_output({q[0], q[1], q[2], o.value.shape()[3]}, options.layout, o.query);
  AttentionResult result{output.stored, {}};
  if (options.return_lse) result.lse = empty_on(o.query.device(), {q[0], q[2], q[1]}, DType::f32);
  std::vector<AttentionSequence> sequences;
  for (std::int64_t b = 0; b < q[0] && result.output.elements() > 0; ++b)
    sequences.push_back({b, 0, q[1], 0, o.key.shape()[1]});
  AttentionCall call{o.query,        o.key,
                     o.value,        o.mask,
                     output.bsnd,    result.lse,
                     sequences,      scale_of(options.scale, q[3]),
                     options.causal, team_size(options.threads)};
  run(problem_of(o, options), call, options);
  return result;
}

AttentionResult attention_forward_varlen(const Tensor& query, const Tensor& key, const Tensor& value,
                                         std::span<const std::int32_t> cu_seqlens_q,
                                         std::span<const std::int32_t> cu_seqlens_k,
                                         const VarlenAttentionOptions& options) {
  const auto packed = [](const char* what, const Tensor& tensor) {
    check(tensor.defined() && tensor.shape().rank() == 3, "{} {} is not [T, N, D]", what, describe(tensor));
    const Shape& s = tensor.shape();
    const Shape& strides = tensor.strides();
    return with_dense_rows(
        tensor.restrided({1, s[0], s[1], s[2]}, {s[0] * strides[0], strides[0], strides[1], strides[2]}));
  };
  Operands o{packed("query", query), packed("key", key), packed("value", value), {}};
  check_operands(o);
  check_boundaries("cu_seqlens_q", cu_seqlens_q, o.query.shape()[1]);
  check_boundaries("cu_seqlens_k", cu_seqlens_k, o.key.shape()[1]);
  check(cu_seqlens_q.size() == cu_seqlens_k.size(), "cu_seqlens_q has {} boundaries, cu_seqlens_k {}",
        cu_seqlens_q.size(), cu_seqlens_k.size());
  AttentionProblem problem = problem_of(o, options);
  problem.varlen = true;
  problem.batch = static_cast<std::int64_t>(cu_seqlens_q.size()) - 1;
  problem.queries = problem.keys = 0;
  std::vector<AttentionSequence> sequences;
  for (std::size_t i = 0; i + 1 < cu_seqlens_q.size(); ++i) {
    const AttentionSequence s{0, cu_seqlens_q[i], cu_seqlens_q[i + 1] - cu_seqlens_q[i], cu_seqlens_k[i],
                              cu_seqlens_k[i + 1] - cu_seqlens_k[i]};
    problem.queries = std::max(problem.queries, s.queries);
    problem.keys = std::max(problem.keys, s.keys);
    sequences.push_back(s);
  }
  const Shape& q = o.query.shape();
  const Tensor output = empty_on(o.query.device(), {1, q[1], q[2], o.value.shape()[3]}, o.query.dtype());
  Tensor lse;
  if (options.return_lse) lse = empty_on(o.query.device(), {1, q[2], q[1]}, DType::f32);
  AttentionCall call{o.query,        o.key,
                     o.value,        {},
                     output,         lse,
                     sequences,      scale_of(options.scale, q[3]),
                     options.causal, team_size(options.threads)};
  run(problem, call, options);
  return {output.reshaped({q[1], q[2], o.value.shape()[3]}), lse.defined() ? lse.reshaped({q[2], q[1]}) : lse};
}

AttentionResult merge_attention_states(const AttentionResult& a, const AttentionResult& b) {
  const auto check_state = [](const char* which, const AttentionResult& state) {
    check(state.output.defined() && state.lse.defined() && state.output.shape().rank() == 4,
          "merge: state {} needs output [B, S, N, D] and lse [B, N, S]", which);
    const Shape& s = state.output.shape();
    check(is_floating(state.output.dtype()) && state.output.dtype() != DType::f8_e4m3,
          "merge: output {} is {}; allowed are float32, bfloat16 and float16", which, dtype_name(state.output.dtype()));
    check(state.lse.dtype() == DType::f32 && state.lse.shape() == Shape{s[0], s[2], s[1]},
          "merge: lse {} is {}; it must be float32 {}", which, describe(state.lse),
          Shape{s[0], s[2], s[1]}.to_string());
  };
  check_state("a", a);
  check_state("b", b);
  check(a.output.shape() == b.output.shape() && a.output.dtype() == b.output.dtype(), "merge: outputs {} and {} differ",
        describe(a.output), describe(b.output));
  AttentionResult merged{a.output.to(a.output.dtype()), a.lse.to_float32()};
  merge_states(merged, {with_dense_rows(b.output), b.lse}, merged, default_threads());
  return merged;
}

std::vector<AttentionBackendAnswer> attention_backends(const Tensor& query, const Tensor& key, const Tensor& value,
                                                       const Tensor& mask, const AttentionOptions& options) {
  const Operands o = fixed_operands(query, key, value, mask, options);
  return attention_registry().answers(settled(problem_of(o, options), options));
}

SelectedAttentionBackend selected_attention_backend(const Tensor& query, const Tensor& key, const Tensor& value,
                                                    const Tensor& mask, const AttentionOptions& options) {
  const Operands o = fixed_operands(query, key, value, mask, options);
  const AttentionChoice choice = choose(settled(problem_of(o, options), options), team_size(options.threads), options);
  return {std::string(choice.kernel->name()), choice.reason};
}

}  // namespace rondo
