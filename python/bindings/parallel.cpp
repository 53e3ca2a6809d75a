// Ranks, and attention over tokens that lie on several of them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "attention_options.h"
#include "module.h"
#include "rondo/parallel_attention.h"
#include "tensors.h"

namespace nb = nanobind;

namespace rondo::python {
namespace {

using Released = nb::call_guard<nb::gil_scoped_release>;

std::shared_ptr<ParallelWorld> join_mpi(double rank_timeout) {
  const auto milliseconds = static_cast<std::int64_t>(std::clamp(rank_timeout, 0.0, 1e9) * 1e3);
  return ParallelWorld::join_mpi(std::chrono::milliseconds(milliseconds));
}

ParallelAttention make(std::shared_ptr<ParallelWorld> world, std::optional<int> ulysses_degree, int ring_degree) {
  ParallelOptions options;
  options.ulysses_degree = ulysses_degree;
  options.ring_degree = ring_degree;
  return ParallelAttention(std::move(world), options);
}

using Pair = std::pair<nb::object, nb::object>;

Pair hand_over_both(const AttentionResult& result) { return {hand_over(result.output), hand_over(result.lse)}; }

Pair forward(ParallelAttention& attention, const Array& query, const Array& key, const Array& value,
             const std::optional<Array>& mask, std::optional<double> scale, bool causal, const std::string& layout,
             bool return_lse, const std::string& backend, int threads, const Quantization& quantization) {
  AttentionOptions options;
  options.scale = scale;
  options.causal = causal;
  options.layout = parse_layout(layout);
  options.return_lse = return_lse;
  options.backend = backend;
  options.threads = threads;
  set_quantization(options, quantization);
  const Tensor q = borrow("parallel attention: query", query);
  const Tensor k = borrow("parallel attention: key", key);
  const Tensor v = borrow("parallel attention: value", value);
  const Tensor m = mask ? borrow("parallel attention: attn_mask", *mask) : Tensor();
  AttentionResult result;
  {
    const nb::gil_scoped_release released;
    result = attention.forward(q, k, v, m, options);
  }
  return hand_over_both(result);
}

Pair forward_varlen(ParallelAttention& attention, const Array& query, const Array& key, const Array& value,
                    const std::vector<std::int32_t>& cu_seqlens, std::optional<double> scale, bool causal,
                    bool return_lse, const std::string& backend, int threads, const Quantization& quantization) {
  VarlenAttentionOptions options;
  options.scale = scale;
  options.causal = causal;
  options.return_lse = return_lse;
  options.backend = backend;
  options.threads = threads;
  set_quantization(options, quantization);
  const Tensor q = borrow("parallel attention: q", query);
  const Tensor k = borrow("parallel attention: k", key);
  const Tensor v = borrow("parallel attention: v", value);
  AttentionResult result;
  {
    const nb::gil_scoped_release released;
    result = attention.forward_varlen(q, k, v, cu_seqlens, options);
  }
  return hand_over_both(result);
}

}  // namespace

void bind_parallel(nb::module_& module) {
  nb::class_<ParallelWorld>(module, "ParallelWorld")
      .def_static("join_mpi", &join_mpi, nb::arg("rank_timeout"), Released())
      .def_static("threads", &ParallelWorld::threads, nb::arg("ranks"))
      .def_prop_ro("rank", &ParallelWorld::rank)
      .def_prop_ro("size", &ParallelWorld::size)
      .def("fail", &ParallelWorld::fail, nb::arg("reason"), Released())
      .def("finish", &ParallelWorld::finish, Released());
  nb::class_<ParallelAttention>(module, "ParallelAttention")
      .def("forward", &forward, nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("mask").none(),
           nb::arg("scale").none(), nb::arg("causal"), nb::arg("layout"), nb::arg("return_lse"), nb::arg("backend"),
           nb::arg("threads"), nb::arg("quantization"))
      .def("forward_varlen", &forward_varlen, nb::arg("query"), nb::arg("key"), nb::arg("value"), nb::arg("cu_seqlens"),
           nb::arg("scale").none(), nb::arg("causal"), nb::arg("return_lse"), nb::arg("backend"), nb::arg("threads"),
           nb::arg("quantization"));
  module.def("parallel_attention", &make, nb::arg("world"), nb::arg("ulysses_degree").none(), nb::arg("ring_degree"),
             Released());
}

}  // namespace rondo::python
