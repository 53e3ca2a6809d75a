// The extension module rondo._rondo: the C++ functions on arrays. What a user calls is Python, in python/rondo.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "rondo/attention.h"
#include "rondo/error.h"
#include "rondo/version.h"
#include "tensors.h"

namespace nb = nanobind;

namespace rondo::python {
namespace {

using MaybeArray = std::optional<Array>;
using Pair = std::pair<nb::object, nb::object>;

AttentionLayout parse_layout(const std::string& name) {
  if (name == "BSND") return AttentionLayout::bsnd;
  if (name == "BNSD") return AttentionLayout::bnsd;
  if (name == "BSH") return AttentionLayout::bsh;
  throw InvalidArgument("attention: layout '" + name + "' is given; allowed are BSND, BNSD and BSH");
}

AttentionOptions options_of(std::optional<double> scale, bool causal, const std::string& layout, std::int64_t num_heads,
                            bool return_lse, const std::string& backend) {
  AttentionOptions options;
  options.scale = scale;
  options.causal = causal;
  options.layout = parse_layout(layout);
  options.num_heads = num_heads;
  options.return_lse = return_lse;
  options.backend = backend;
  return options;
}

Pair hand_over(const AttentionResult& result) {
  return {python::hand_over(result.output), python::hand_over(result.lse)};
}

Pair forward(const Array& query, const Array& key, const Array& value, const MaybeArray& mask,
             std::optional<double> scale, bool causal, const std::string& layout, std::int64_t num_heads,
             bool return_lse, const std::string& backend) {
  const AttentionOptions options = options_of(scale, causal, layout, num_heads, return_lse, backend);
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
                    const std::string& backend) {
  VarlenAttentionOptions options;
  options.scale = scale;
  options.causal = causal;
  options.return_lse = return_lse;
  options.backend = backend;
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

std::vector<std::pair<std::string, std::optional<std::string>>> backends(const Array& query, const Array& key,
                                                                         const Array& value, const MaybeArray& mask,
                                                                         std::optional<double> scale, bool causal,
                                                                         const std::string& layout,
                                                                         std::int64_t num_heads, bool return_lse) {
  std::vector<std::pair<std::string, std::optional<std::string>>> answers;
  for (auto& [name, refusal] :
       attention_backends(borrow("attention: query", query), borrow("attention: key", key),
                          borrow("attention: value", value), mask ? borrow("attention: attn_mask", *mask) : Tensor(),
                          options_of(scale, causal, layout, num_heads, return_lse, ""))) {
    answers.emplace_back(std::move(name), std::move(refusal));
  }
  return answers;
}

void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const InvalidArgument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const Unsupported& error) {
    PyErr_SetString(PyExc_NotImplementedError, error.what());
  } catch (const Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace
}  // namespace rondo::python

NB_MODULE(_rondo, module) {
  using namespace rondo::python;
  nb::register_exception_translator(translate);
  module.def("version", &rondo::version);
  module.def("attention_forward", &forward, nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("mask").none(),
             nb::arg("scale").none(), nb::arg("causal"), nb::arg("layout"), nb::arg("num_heads"), nb::arg("return_lse"),
             nb::arg("backend"));
  module.def("attention_forward_varlen", &forward_varlen);
  module.def("merge_attention_states", &merge);
  module.def("attention_backends", &backends, nb::arg("query"), nb::arg("key"), nb::arg("value"),
             nb::arg("mask").none(), nb::arg("scale").none(), nb::arg("causal"), nb::arg("layout"),
             nb::arg("num_heads"), nb::arg("return_lse"));
}
