// The attention functions on arrays.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "attention_options.h"
#include "module.h"
#include "rondo/attention.h"
#include "rondo/error.h"
#include "tensors.h"

namespace nb = nanobind;

namespace rondo::python {
namespace {

using MaybeArray = std::optional<Array>;
using Pair = std::pair<nb::object, nb::object>;

AttentionOptMode parse_opt_mode(const std::string& name) {
  if (name == "runtime") return AttentionOptMode::runtime;
  if (name == "static") return AttentionOptMode::static_order;
  if (name == "manual") return AttentionOptMode::manual;
  throw InvalidArgument("attention: opt_mode '" + name + "' is given; allowed are runtime, static and manual");
}

AttentionOptions options_of(std::optional<double> scale, bool causal, const std::string& layout, std::int64_t num_heads,
                            bool return_lse, const std::string& opt_mode, const std::string& backend, int threads,
                            const Quantization& quantization) {
  AttentionOptions options;
  options.scale = scale;
  options.causal = causal;
  options.layout = parse_layout(layout);
  options.num_heads = num_heads;
  options.return_lse = return_lse;
  options.opt_mode = parse_opt_mode(opt_mode);
  options.backend = backend;
  options.threads = threads;
  set_quantization(options, quantization);
  return options;
}

Pair hand_over(const AttentionResult& result) {
  return {python::hand_over(result.output), python::hand_over(result.lse)};
}

Pair forward(const Array& query, const Array& key, const Array& value, const MaybeArray& mask,
             std::optional<double> scale, bool causal, const std::string& layout, std::int64_t num_heads,
             bool return_lse, const std::string& opt_mode, const std::string& backend, int threads,
             const Quantization& quantization) {
  const AttentionOptions options =
      options_of(scale, causal, layout, num_heads, return_lse, opt_mode, backend, threads, quantization);
  const Tensor q = borrow("attention: query", query);
  const Tensor k = borrow("attention: key", key);
  const Tensor v = borrow("attention: value", value);
  const Tensor m = mask ? borrow("attention: attn_mask", *mask) : Tensor();
  AttentionResult result;
  {
    const nb::gil_scoped_release released;
    result = attention_forward(q, k, v, m, options);
  }
  return hand_over(result);
}

Pair forward_varlen(const Array& query, const Array& key, const Array& value, const std::vector<std::int32_t>& cu_q,
                    const std::vector<std::int32_t>& cu_k, std::optional<double> scale, bool causal, bool return_lse,
                    const std::string& backend, int threads, const Quantization& quantization) {
  VarlenAttentionOptions options;
  set_quantization(options, quantization);
  options.scale = scale;
  options.causal = causal;
  options.return_lse = return_lse;
  options.backend = backend;
  options.threads = threads;
  const Tensor q = borrow("attention: q", query);
  const Tensor k = borrow("attention: k", key);
  const Tensor v = borrow("attention: v", value);
  AttentionResult result;
  {
    const nb::gil_scoped_release released;
    result = attention_forward_varlen(q, k, v, cu_q, cu_k, options);
  }
  return hand_over(result);
}

Pair merge(const Array& out_a, const Array& lse_a, const Array& out_b, const Array& lse_b) {
  return hand_over(merge_attention_states({borrow("merge: out_a", out_a), borrow("merge: lse_a", lse_a)},
                                          {borrow("merge: out_b", out_b), borrow("merge: lse_b", lse_b)}));
}

/// The same call for attention_backends and selected_attention_backend.
template <typename Ask>
auto ask(const Ask& question, const Array& query, const Array& key, const Array& value, const MaybeArray& mask,
         const AttentionOptions& options) {
  return question(borrow("attention: query", query), borrow("attention: key", key), borrow("attention: value", value),
                  mask ? borrow("attention: attn_mask", *mask) : Tensor(), options);
}

using Answers = std::vector<std::pair<std::string, std::optional<std::string>>>;

Answers backends(const Array& query, const Array& key, const Array& value, const MaybeArray& mask,
                 std::optional<double> scale, bool causal, const std::string& layout, std::int64_t num_heads,
                 bool return_lse, const std::string& opt_mode, const std::string& backend, int threads,
                 const Quantization& quantization) {
  Answers answers;
  const AttentionOptions options =
      options_of(scale, causal, layout, num_heads, return_lse, opt_mode, backend, threads, quantization);
  for (auto& [name, refusal] : ask(attention_backends, query, key, value, mask, options))
    answers.emplace_back(std::move(name), std::move(refusal));
  return answers;
}

std::pair<std::string, std::string> selected(const Array& query, const Array& key, const Array& value,
                                             const MaybeArray& mask, std::optional<double> scale, bool causal,
                                             const std::string& layout, std::int64_t num_heads, bool return_lse,
                                             const std::string& opt_mode, const std::string& backend, int threads,
                                             const Quantization& quantization) {
  const AttentionOptions options =
      options_of(scale, causal, layout, num_heads, return_lse, opt_mode, backend, threads, quantization);
  auto choice = ask(selected_attention_backend, query, key, value, mask, options);
  return {std::move(choice.name), std::move(choice.reason)};
}

}  // namespace

void bind_attention(nb::module_& module) {
  module.def("attention_forward", &forward, nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("mask").none(),
             nb::arg("scale").none(), nb::arg("causal"), nb::arg("layout"), nb::arg("num_heads"), nb::arg("return_lse"),
             nb::arg("opt_mode"), nb::arg("backend"), nb::arg("threads"), nb::arg("quantization"));
  module.def("attention_forward_varlen", &forward_varlen, nb::arg("query"), nb::arg("key"), nb::arg("value"),
             nb::arg("cu_seqlens_q"), nb::arg("cu_seqlens_k"), nb::arg("scale").none(), nb::arg("causal"),
             nb::arg("return_lse"), nb::arg("backend"), nb::arg("threads"), nb::arg("quantization"));
  module.def("merge_attention_states", &merge, nb::arg("out_a"), nb::arg("lse_a"), nb::arg("out_b"), nb::arg("lse_b"));
  module.def("attention_backends", &backends, nb::arg("query"), nb::arg("key"), nb::arg("value"),
             nb::arg("mask").none(), nb::arg("scale").none(), nb::arg("causal"), nb::arg("layout"),
             nb::arg("num_heads"), nb::arg("return_lse"), nb::arg("opt_mode"), nb::arg("backend"), nb::arg("threads"),
             nb::arg("quantization"));
  module.def("selected_attention_backend", &selected, nb::arg("query"), nb::arg("key"), nb::arg("value"),
             nb::arg("mask").none(), nb::arg("scale").none(), nb::arg("causal"), nb::arg("layout"),
             nb::arg("num_heads"), nb::arg("return_lse"), nb::arg("opt_mode"), nb::arg("backend"), nb::arg("threads"),
             nb::arg("quantization"));
}

}  // namespace rondo::python
