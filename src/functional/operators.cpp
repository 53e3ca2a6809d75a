// The public operators: operands checked by the operator's contract, its first kernel that can, run once.
#include "rondo/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "backends/cpu/kernels.h"
#include "backends/device_work.h"
#include "backends/devices.h"
#include "backends/kernel.h"
#include "core/threads.h"
#include "functional/dense_rows.h"
#include "ops/elementwise.h"
#include "ops/fused_norms.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"
#include "rondo/error.h"

namespace rondo {
namespace {

void check_operand(const Operator& op, const Tensor& tensor) {
  if (!tensor.defined()) throw InvalidArgument(fmt::format("{}: an operand is missing", op.name()));
  const DType dtype = tensor.dtype();
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
    throw InvalidArgument(fmt::format("{}: {} {} is given; allowed are float32, bfloat16 and float16", op.name(),
                                      dtype_name(dtype), tensor.shape().to_string()));
  }
}

std::vector<TensorType> types_of(std::span<const Tensor> tensors) {
  std::vector<TensorType> types;
  for (const Tensor& tensor : tensors) types.push_back({tensor.shape(), tensor.dtype(), tensor.device()});
  return types;
}

const KernelEntry& choose_kernel(const KernelRequest& request, bool fused) {
  if (request.device != nullptr) {
    if (!fused) throw Unsupported(fmt::format("{}: the plain operator runs on the CPU only", request.op.name()));
    return *select_kernel(request.device->kernels(), request).entry;
  }
  if (fused) return *select_kernel(cpu::kernels(), request).entry;
  return cpu::kernels().back();  // the reference
}

void run(const Operator& op, std::span<const Tensor> inputs, std::span<Tensor> outputs,
         const OperatorOptions& options) {
  if (std::all_of(outputs.begin(), outputs.end(), [](const Tensor& output) { return output.elements() == 0; })) return;
  std::vector<KernelInput> known;
  for (const Tensor& input : inputs) known.push_back({input, ""});
  WeightStore no_weights(nullptr);
  const int threads = available_threads(options.threads > 0 ? options.threads : default_threads());
  const auto device = open_device(inputs[0].device());
  const KernelRequest request{op, known, outputs, threads, no_weights, device.get()};
  const auto kernel = choose_kernel(request, options.fused).make(request);
  if (device != nullptr) {
    Tensor scratch = device->empty({static_cast<std::int64_t>(kernel->scratch_bytes())}, DType::u8);
    DeviceWork work(device);  // ends before its scratch goes
    kernel->run(
        {inputs, outputs, {scratch.as<std::byte>(), scratch.bytes()}, threads, nullptr, device.get(), &work.stream()});
    return work.finish();
  }
  const ThreadTeamScope team(threads);
  kernel->run({inputs, outputs, {}, threads});
}

/// Checks the operands, runs the operator and returns its outputs, dense.
std::vector<Tensor> compute(const Operator& op, std::vector<Tensor> inputs, const OperatorOptions& options) {
  for (Tensor& input : inputs) {
    check_operand(op, input);
    input = with_dense_rows(input);
    if (input.device() != inputs[0].device()) {
      throw InvalidArgument(fmt::format("{}: operands on {} and {} are given; allowed is one device", op.name(),
                                        to_string(inputs[0].device()), to_string(input.device())));
    }
  }
  std::vector<Tensor> outputs;
  for (const TensorType& type : op.infer(types_of(inputs)))
    outputs.push_back(empty_on(inputs[0].device(), type.shape, type.dtype));
  run(op, inputs, outputs, options);
  return outputs;
}

/// A norm's weight as its kernel takes it.
Tensor as_parameter(const Operator& op, const Tensor& parameter) {
  check_operand(op, parameter);
  const bool as_it_is = !parameter.device().is_cpu() || (parameter.dtype() == DType::f32 && parameter.is_dense());
  return as_it_is ? parameter : parameter.to_float32();
}

void append_weight(const Operator& op, const Tensor& weight, std::vector<Tensor>& inputs) {
  if (weight.defined()) inputs.push_back(as_parameter(op, weight));
}

/// Both, with the neutral one in place of one that is missing, or none.
void append_affine(const Operator& op, const Tensor& weight, const Tensor& bias, std::vector<Tensor>& inputs) {
  if (!weight.defined() && !bias.defined()) return;
  const Shape& shape = weight.defined() ? weight.shape() : bias.shape();
  const Device device = inputs[0].device();
  const auto constant = [&](float value) {
    Tensor all = Tensor::empty(shape, DType::f32);
    std::fill_n(all.as<float>(), all.elements(), value);
    return device.is_cpu() ? all : all.to(device);
  };
  inputs.push_back(weight.defined() ? as_parameter(op, weight) : constant(1));
  inputs.push_back(bias.defined() ? as_parameter(op, bias) : constant(0));
}

/// The axis on which x [four axes] has its tokens, as the tables and `head_first` say.
std::size_t token_axis(const Operator& op, const Shape& x, const Shape& table, bool head_first) {
  const auto refuse = [&](std::string_view why) {
    throw InvalidArgument(fmt::format(
        "{}: input {} and table {} (head_first={}) do not fit: {}; allowed are [B, S, N, D] (head_first: [B, N, S, D]) "
        "with even D and tables [S, D], [1, S, 1, D], [1, 1, S, D] or [S, 1, 1, D] (the last axis may be D / 2)",
        op.name(), x.to_string(), table.to_string(), head_first, why));
  };
  if (x.rank() != 4) refuse("the input needs four axes");
  if (x[3] % 2 != 0) refuse("the head dim is odd");
  if (table.rank() != 2 && table.rank() != 4) refuse("the table needs two or four axes");
  if (table.back() != x[3] && table.back() != x[3] / 2) refuse("the table's last axis is neither D nor D / 2");
  std::size_t axis = head_first ? 2 : 1;
  if (table.rank() == 4) {
    std::optional<std::size_t> found;
    for (std::size_t i = 0; i < 3; ++i) {
      if (table[i] == 1) continue;
      if (found) refuse("two of the table's axes are longer than 1");
      found = i;
    }
    if (found && head_first && *found != 2) refuse("with head_first tokens lie on axis 2");
    axis = found.value_or(axis);
  }
  const std::int64_t positions = table.elements() / std::max<std::int64_t>(1, table.back());
  if (positions != x[axis]) refuse(fmt::format("axis {} of the input has {} tokens", axis, x[axis]));
  return axis;
}

/// Runs a rotation of x [B, S, N, D] on a tensor whose tokens lie on another axis.
Tensor rotate(const Operator& op, const Tensor& x, const Tensor& weight, const Tensor& cos, const Tensor& sin,
              bool head_first, const OperatorOptions& options) {
  for (const Tensor* operand : {&x, &cos, &sin}) check_operand(op, *operand);
  if (cos.shape() != sin.shape()) {
    throw InvalidArgument(fmt::format("{}: tables {} and {} differ in shape", op.name(), cos.shape().to_string(),
                                      sin.shape().to_string()));
  }
  const std::size_t axis = token_axis(op, x.shape(), cos.shape(), head_first);
  const auto arranged = [&](const Tensor& tensor) { return axis == 1 ? tensor : tensor.transposed(1, axis); };
  const auto table = [&](const Tensor& given) {
    const Shape rows{x.shape()[axis], given.shape().back()};
    if (given.device().is_cpu()) return as_parameter(op, given).reshaped(rows);
    // The axis that runs along the tokens is the only one before the last that is longer than 1.
    std::int64_t stride = given.shape().back();
    for (std::size_t i = 0; i + 1 < given.shape().rank(); ++i) {
      if (given.shape()[i] != 1) stride = given.strides()[i];
    }
    return given.restrided(rows, {stride, given.strides()[given.shape().rank() - 1]});
  };
  std::vector<Tensor> inputs{arranged(with_dense_rows(x)), table(cos), table(sin)};
  append_weight(op, weight, inputs);
  if (!options.fused) return arranged(compute(op, inputs, options)[0]).to(x.dtype());
  op.infer(types_of(inputs));
  Tensor output = empty_on(x.device(), x.shape(), x.dtype());
  std::array outputs{arranged(output)};
  run(op, inputs, outputs, options);
  return output;
}

}  // namespace

Tensor rotary_position_embedding(const Tensor& x, const Tensor& cos, const Tensor& sin, RotaryMode mode,
                                 bool head_first, const OperatorOptions& options) {
  return rotate(RopeOp(mode), x, {}, cos, sin, head_first, options);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, const OperatorOptions& options) {
  const RmsNormOp op(eps);
  std::vector<Tensor> inputs{x};
  append_weight(op, weight, inputs);
  return compute(op, std::move(inputs), options)[0];
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  const OperatorOptions& options) {
  const LayerNormOp op(eps);
  std::vector<Tensor> inputs{x};
  append_affine(op, weight, bias, inputs);
  return compute(op, std::move(inputs), options)[0];
}

Tensor layernorm_scale_shift(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& weight,
                             const Tensor& bias, double eps, const OperatorOptions& options) {
  const LayerNormScaleShiftOp op(eps);
  std::vector<Tensor> inputs{x, scale, shift};
  append_affine(op, weight, bias, inputs);
  return compute(op, std::move(inputs), options)[0];
}

Tensor residual_gate_add(const Tensor& x, const Tensor& y, const Tensor& gate, const OperatorOptions& options) {
  return compute(GatedAddOp(), {x, gate, y}, options)[0];
}

NormedSum add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps,
                       const OperatorOptions& options) {
  const AddRmsNormOp op(eps);
  std::vector<Tensor> inputs{x, residual};
  append_weight(op, weight, inputs);
  std::vector<Tensor> outputs = compute(op, std::move(inputs), options);
  return {outputs[0], outputs[1]};
}

QueryKey qk_norm_rope(const Tensor& query, const Tensor& key, const Tensor& query_weight, const Tensor& key_weight,
                      const Tensor& cos, const Tensor& sin, RotaryMode mode, bool head_first, double eps,
                      const OperatorOptions& options) {
  const RmsNormRopeOp op(eps, mode);
  return {rotate(op, query, query_weight, cos, sin, head_first, options),
          rotate(op, key, key_weight, cos, sin, head_first, options)};
}

Tensor activation(const Tensor& x, ActivationKind kind, const OperatorOptions& options) {
  return compute(ActivationOp(kind), {x}, options)[0];
}

Tensor swiglu(const Tensor& x, const OperatorOptions& options) { return compute(SwigluOp(), {x}, options)[0]; }

}  // namespace rondo
