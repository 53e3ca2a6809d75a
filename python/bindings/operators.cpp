// The operators beside attention, on arrays.
#include "rondo/operators.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include "module.h"
#include "rondo/error.h"
#include "tensors.h"

namespace nb = nanobind;

namespace rondo::python {
namespace {

using MaybeArray = std::optional<Array>;
using Pair = std::pair<nb::object, nb::object>;

Tensor borrow_if(const char* name, const MaybeArray& array) { return array ? borrow(name, *array) : Tensor(); }

RotaryMode parse_mode(const std::string& name) {
  if (name == "rotated_half") return RotaryMode::half;
  if (name == "rotated_interleaved") return RotaryMode::interleaved;
  throw InvalidArgument("rope: rotated_mode '" + name + "' is given; allowed are rotated_half and rotated_interleaved");
}

ActivationKind parse_activation(const std::string& name) {
  if (name == "gelu") return ActivationKind::gelu_erf;
  if (name == "gelu-tanh") return ActivationKind::gelu_tanh;
  if (name == "gelu-fast") return ActivationKind::quick_gelu;
  if (name == "silu" || name == "swish") return ActivationKind::silu;
  if (name == "mish") return ActivationKind::mish;
  if (name == "relu") return ActivationKind::relu;
  throw InvalidArgument("activation: '" + name +
                        "' is given; allowed are gelu, gelu-tanh, gelu-fast, silu, swish, mish and relu");
}

/// Calls compute() without the interpreter's lock.
template <typename Compute>
auto released(const Compute& compute) {
  const nb::gil_scoped_release lock;
  return compute();
}

nb::object rope(const Array& x, const Array& cos, const Array& sin, const std::string& mode, bool head_first,
                bool fused, int threads) {
  const Tensor in = borrow("rope: x", x);
  const Tensor c = borrow("rope: cos", cos);
  const Tensor s = borrow("rope: sin", sin);
  const RotaryMode kind = parse_mode(mode);
  return hand_over(released([&] { return rotary_position_embedding(in, c, s, kind, head_first, {fused, threads}); }));
}

nb::object rms(const Array& x, const MaybeArray& weight, double eps, bool fused, int threads) {
  const Tensor in = borrow("rms_norm: x", x);
  const Tensor w = borrow_if("rms_norm: weight", weight);
  return hand_over(released([&] { return rms_norm(in, w, eps, {fused, threads}); }));
}

nb::object layer(const Array& x, const MaybeArray& weight, const MaybeArray& bias, double eps, bool fused,
                 int threads) {
  const Tensor in = borrow("layer_norm: x", x);
  const Tensor w = borrow_if("layer_norm: weight", weight);
  const Tensor b = borrow_if("layer_norm: bias", bias);
  return hand_over(released([&] { return layer_norm(in, w, b, eps, {fused, threads}); }));
}

nb::object scale_shift(const Array& x, const Array& scale, const Array& shift, const MaybeArray& weight,
                       const MaybeArray& bias, double eps, bool fused, int threads) {
  const Tensor in = borrow("layernorm_scale_shift: x", x);
  const Tensor by = borrow("layernorm_scale_shift: scale", scale);
  const Tensor plus = borrow("layernorm_scale_shift: shift", shift);
  const Tensor w = borrow_if("layernorm_scale_shift: weight", weight);
  const Tensor b = borrow_if("layernorm_scale_shift: bias", bias);
  return hand_over(released([&] { return layernorm_scale_shift(in, by, plus, w, b, eps, {fused, threads}); }));
}

nb::object gate_add(const Array& x, const Array& y, const Array& gate, bool fused, int threads) {
  const Tensor base = borrow("residual_gate_add: x", x);
  const Tensor in = borrow("residual_gate_add: y", y);
  const Tensor by = borrow("residual_gate_add: gate", gate);
  return hand_over(released([&] { return residual_gate_add(base, in, by, {fused, threads}); }));
}

Pair add_rms(const Array& x, const Array& residual, const MaybeArray& weight, double eps, bool fused, int threads) {
  const Tensor in = borrow("add_rms_norm: x", x);
  const Tensor base = borrow("add_rms_norm: residual", residual);
  const Tensor w = borrow_if("add_rms_norm: weight", weight);
  const NormedSum result = released([&] { return add_rms_norm(in, base, w, eps, {fused, threads}); });
  return {hand_over(result.normed), hand_over(result.sum)};
}

Pair norm_rope(const Array& query, const Array& key, const MaybeArray& query_weight, const MaybeArray& key_weight,
               const Array& cos, const Array& sin, const std::string& mode, bool head_first, double eps, bool fused,
               int threads) {
  const Tensor q = borrow("qk_norm_rope: query", query);
  const Tensor k = borrow("qk_norm_rope: key", key);
  const Tensor qw = borrow_if("qk_norm_rope: query_weight", query_weight);
  const Tensor kw = borrow_if("qk_norm_rope: key_weight", key_weight);
  const Tensor c = borrow("qk_norm_rope: cos", cos);
  const Tensor s = borrow("qk_norm_rope: sin", sin);
  const RotaryMode kind = parse_mode(mode);
  const QueryKey result = released([&] {
    return qk_norm_rope(q, k, qw, kw, c, s, kind, head_first, eps, {fused, threads});
  });
  return {hand_over(result.query), hand_over(result.key)};
}

nb::object activate(const Array& x, const std::string& kind, bool fused, int threads) {
  const Tensor in = borrow("activation: x", x);
  const ActivationKind function = parse_activation(kind);
  return hand_over(released([&] { return activation(in, function, {fused, threads}); }));
}

nb::object gated_linear(const Array& x, bool fused, int threads) {
  const Tensor in = borrow("swiglu: x", x);
  return hand_over(released([&] { return swiglu(in, {fused, threads}); }));
}

}  // namespace

void bind_operators(nb::module_& module) {
  using nb::arg;
  module.def("rotary_position_embedding", &rope, arg("x"), arg("cos"), arg("sin"), arg("rotated_mode"),
             arg("head_first"), arg("fused"), arg("threads"));
  module.def("rms_norm", &rms, arg("x"), arg("weight").none(), arg("eps"), arg("fused"), arg("threads"));
  module.def("layer_norm", &layer, arg("x"), arg("weight").none(), arg("bias").none(), arg("eps"), arg("fused"),
             arg("threads"));
  module.def("layernorm_scale_shift", &scale_shift, arg("x"), arg("scale"), arg("shift"), arg("weight").none(),
             arg("bias").none(), arg("eps"), arg("fused"), arg("threads"));
  module.def("residual_gate_add", &gate_add, arg("x"), arg("y"), arg("gate"), arg("fused"), arg("threads"));
  module.def("add_rms_norm", &add_rms, arg("x"), arg("residual"), arg("weight").none(), arg("eps"), arg("fused"),
             arg("threads"));
  module.def("qk_norm_rope", &norm_rope, arg("query"), arg("key"), arg("query_weight").none(), arg("key_weight").none(),
             arg("cos"), arg("sin"), arg("rotated_mode"), arg("head_first"), arg("eps"), arg("fused"), arg("threads"));
  module.def("activation", &activate, arg("x"), arg("kind"), arg("fused"), arg("threads"));
  module.def("swiglu", &gated_linear, arg("x"), arg("fused"), arg("threads"));
}

}  // namespace rondo::python
