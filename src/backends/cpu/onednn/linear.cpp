// Linear layers by oneDNN's matmul, with weights packed once.
#include <array>

#include "backends/cpu/kernels.h"
#include "backends/cpu/modulation_rows.h"
#include "backends/cpu/onednn/primitives.h"
#include "backends/cpu/onednn/tile_epilogue.h"
#include "backends/cpu/onednn/weights.h"
#include "backends/cpu/over_rows.h"
#include "backends/cpu/row_map.h"
#include "backends/cpu/simd_norms.h"
#include "core/cpu_level.h"
#include "ops/linear.h"

namespace rondo::cpu {
namespace {

using dnnl::memory;

void append_activation(dnnl::post_ops& post_ops, ActivationKind kind) {
  using dnnl::algorithm;
  switch (kind) {
    case ActivationKind::gelu_erf: return append_eltwise(post_ops, algorithm::eltwise_gelu_erf, 0.0F);
    case ActivationKind::gelu_tanh: return append_eltwise(post_ops, algorithm::eltwise_gelu_tanh, 0.0F);
    case ActivationKind::quick_gelu: return append_eltwise(post_ops, algorithm::eltwise_swish, 1.702F);
    case ActivationKind::silu: return append_eltwise(post_ops, algorithm::eltwise_swish, 1.0F);
    case ActivationKind::mish: return append_eltwise(post_ops, algorithm::eltwise_mish, 0.0F);
    case ActivationKind::relu: return append_eltwise(post_ops, algorithm::eltwise_relu, 0.0F);
  }
}

/// One product, or one for each outermost index where rows of input or target are not evenly spaced (parts of a batch).
std::int64_t products_of(const KernelRequest& request) {
  const bool even = RowMap(request.inputs[0].prototype).uniform() && request.outputs[0].is_dense();
  return even ? 1 : request.inputs[0].prototype.shape()[0];
}

class OnednnLinear final : public Kernel {
 public:
  explicit OnednnLinear(const KernelRequest& request) {
    const Tensor& x = request.inputs[0].prototype;
    const Shape& weight = request.inputs[1].prototype.shape();
    const memory::dim n = weight[0];
    const memory::dim k = weight[1];
    products_ = products_of(request);
    rows_ = x.shape().rows() / products_;
    const auto type = onednn_dtype(x.dtype());
    const memory::dim row_stride = rows_ == 1 ? k : std::max<memory::dim>(RowMap(part_of(x, 0)).row_stride(), k);
    source_ = memory::desc({rows_, k}, type, memory::dims{row_stride, 1});
    target_ = memory::desc({rows_, n}, type, memory::format_tag::ab);
    bias_ = request.inputs.size() > 2 ? memory::desc({1, n}, memory::data_type::f32, memory::format_tag::ab)
                                      : memory::desc();
    const memory::desc plain({k, n}, onednn_dtype(request.inputs[1].prototype.dtype()), memory::dims{1, k});

    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto& op = static_cast<const LinearOp&>(request.op);
    gated_ = op.gated();
    if (op.activation()) {
      dnnl::post_ops post_ops;
      append_activation(post_ops, *op.activation());
      attr.set_post_ops(post_ops);
    }
    const auto describe = [&](const memory::desc& weights) {
      return matmul_primitive(onednn_engine(), source_, weights, bias_, target_, attr);
    };
    dnnl::matmul::primitive_desc primitive;
    const std::string& name = request.inputs[1].weight;
    if (name.empty() || cpu_level() < CpuLevel::avx512) {
      // Below AVX-512 oneDNN 2 gains nothing from packing: a float32 weight stays where it is mapped.
      primitive = describe(plain);
      if (!name.empty()) plain_weight_ = request.weights.get(name, request.inputs[1].prototype.dtype());
    } else {
      primitive = describe_with_packed_form(request, describe, memory::desc({k, n}, type, memory::format_tag::any));
      packed_ = packed_weight(request.weights, name, primitive.weights_desc(), {k, n}, {1, k});
    }
    weights_ = primitive.weights_desc();
    scratch_ = primitive.scratchpad_desc();
    primitive_ = dnnl::matmul(primitive);
    if (request.inputs.size() > 2 && !request.inputs[2].weight.empty()) {
      bias_weight_ = request.weights.get(request.inputs[2].weight, DType::f32);
    }
  }

  std::size_t scratch_bytes() const override { return scratch_.get_size(); }

  void run(const KernelArgs& args) const override {
    with_onednn_errors("linear", [&] {
      const dnnl::engine& engine = onednn_engine();
      const void* weight = packed_ != nullptr        ? packed_->parts[0].data()
                           : plain_weight_.defined() ? plain_weight_.data()
                                                     : args.inputs[1].data();
      std::unordered_map<int, memory> arguments{
          {DNNL_ARG_WEIGHTS, memory(weights_, engine, const_cast<void*>(weight))},
          {DNNL_ARG_SCRATCHPAD, memory(scratch_, engine, args.scratch.data())},
      };
      if (args.inputs.size() > 2) {
        const Tensor& bias = bias_weight_.defined() ? bias_weight_ : args.inputs[2];
        arguments.emplace(DNNL_ARG_BIAS, memory(bias_, engine, const_cast<void*>(bias.data())));
      }
      for (std::int64_t i = 0; i < products_; ++i) {
        const auto set = [&](int argument, const memory::desc& layout, const Tensor& operand) {
          const void* data = part_of(operand, i).data();
          arguments.insert_or_assign(argument, memory(layout, engine, const_cast<void*>(data)));
        };
        set(DNNL_ARG_SRC, source_, args.inputs[0]);
        set(DNNL_ARG_DST, target_, args.outputs[0]);
        primitive_.execute(onednn_stream(), arguments);
      }
      onednn_stream().wait();
    });
    if (gated_) add_gated(args);
  }

 private:
  Tensor part_of(const Tensor& tensor, std::int64_t product) const {
    return products_ == 1 ? tensor : tensor.sliced(0, product, product + 1);
  }

  /// residual + gate * the product that stands in the output. As oneDNN's own epilogue (two binary post-ops) it took as
  /// long at 96 x 768 x 192 (3 of 65 us, bfloat16, Zen 4) and 2.3 ms in place of 0.5 at 1280 x 3072 x 3072.
  static void add_gated(const KernelArgs& args) {
    const Shape& shape = args.outputs[0].shape();
    const RowMap residual(args.inputs[LinearOp::kResidual]);
    const RowMap gate = modulation_rows(args.inputs[LinearOp::kGate], shape);
    const RowMap y(args.outputs[0]);
    over_rows(args, shape, [&](RowRange rows) { gated_add_rows(residual, gate, y, y, rows); });
  }

  /// An earlier plan (another picture size) may have packed this weight: take its layout when a fast kernel does, so
  /// that one packed copy serves all sizes.
  template <typename Describe>
  static dnnl::matmul::primitive_desc describe_with_packed_form(const KernelRequest& request, const Describe& describe,
                                                                const memory::desc& any) {
    if (const auto layout = packed_layout(request.weights, request.inputs[1].weight)) {
      try {
        dnnl::matmul::primitive_desc primitive = describe(*layout);
        if (std::string_view(primitive.impl_info_str()).find("ref") == std::string_view::npos) return primitive;
      } catch (const dnnl::error&) {  // no implementation takes that layout at this size
      }
    }
    return describe(any);
  }

  std::int64_t products_ = 1;
  std::int64_t rows_ = 0;
  memory::desc source_;
  memory::desc weights_;
  memory::desc bias_;
  memory::desc target_;
  memory::desc scratch_;
  bool gated_ = false;
  dnnl::matmul primitive_;
  std::shared_ptr<const PackedWeight> packed_;
  Tensor plain_weight_;
  Tensor bias_weight_;
};

Refusal supports(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  const Tensor& weight = request.inputs[1].prototype;
  if (static_cast<const LinearOp&>(request.op).quantization()) return "takes unquantised products only";
  if (weight.dtype() != x.dtype()) return "takes input and weight of one dtype only";
  if (x.dtype() == DType::bf16 && !has_native_bf16()) return "bfloat16 products need a CPU level of avx512_bf16";
  if (x.dtype() != DType::f32 && x.dtype() != DType::bf16) return "takes float32 and bfloat16 only";
  if (!has_dense_rows(x)) return "takes dense rows only";
  if (request.inputs[1].weight.empty() && !weight.is_dense()) return "takes a dense weight only";
  if (request.inputs.size() > 2 && !(request.inputs[2].prototype.dtype() == DType::f32))
    return "takes a float32 bias only";
  if (x.elements() == 0 || weight.elements() == 0) return "takes no empty operands";
  const bool at_once = products_of(request) == 1;
  if (!at_once && !RowMap(x.sliced(0, 0, 1)).uniform()) return "takes evenly spaced rows only";
  if (!at_once && !request.outputs[0].sliced(0, 0, 1).is_dense()) return "writes rows without gaps only";
  return refuse_gated_gaps(request);
}

constexpr std::array kEntries{
    KernelEntry{"linear", "onednn", true, supports, [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
                  return with_onednn_errors("linear", [&] { return std::make_unique<OnednnLinear>(request); });
                }}};

}  // namespace

std::span<const KernelEntry> linear_kernels() { return kEntries; }

}  // namespace rondo::cpu
