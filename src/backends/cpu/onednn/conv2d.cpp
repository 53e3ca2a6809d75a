// Convolutions by oneDNN over channels-last pictures, with weights packed once.
#include <array>

#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn/primitives.h"
#include "backends/cpu/onednn/weights.h"
#include "core/cpu_level.h"
#include "ops/conv2d.h"

namespace rondo::cpu {
namespace {

using dnnl::memory;

/// A dense [B, H, W, C] tensor as oneDNN names it.
memory::desc channels_last(const Shape& shape, DType dtype) {
  return {{shape[0], shape[3], shape[1], shape[2]}, onednn_dtype(dtype), memory::format_tag::nhwc};
}

class OnednnConv2d final : public Kernel {
 public:
  explicit OnednnConv2d(const KernelRequest& request) {
    const auto& op = static_cast<const Conv2dOp&>(request.op);
    const Tensor& x = request.inputs[0].prototype;
    const Shape& w = request.inputs[1].prototype.shape();
    const memory::dims weight_dims{w[0], w[1], w[2], w[3]};
    source_ = channels_last(x.shape(), x.dtype());
    target_ = channels_last(request.outputs[0].shape(), x.dtype());
    if (request.inputs.size() == 3) bias_ = memory::desc({w[0]}, memory::data_type::f32, memory::format_tag::a);

    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const Conv2dOp::Padding& padding = op.padding();
    const auto primitive = convolution_primitive(
        onednn_engine(), source_, memory::desc(weight_dims, onednn_dtype(x.dtype()), memory::format_tag::any), bias_,
        target_, {op.stride(), op.stride()}, {padding.top, padding.left}, {padding.bottom, padding.right}, attr);
    weights_ = primitive.weights_desc();
    packed_ = packed_weight(request.weights, request.inputs[1].weight, weights_, weight_dims,
                            {w[1] * w[2] * w[3], w[2] * w[3], w[3], 1});
    if (request.inputs.size() == 3) bias_weight_ = request.weights.get(request.inputs[2].weight, DType::f32);
    scratch_ = primitive.scratchpad_desc();
    primitive_ = dnnl::convolution_forward(primitive);
  }

  std::size_t scratch_bytes() const override { return scratch_.get_size(); }

  void run(const KernelArgs& args) const override {
    with_onednn_errors("conv2d", [&] {
      const dnnl::engine& engine = onednn_engine();
      std::unordered_map<int, memory> arguments{
          {DNNL_ARG_SRC, memory(source_, engine, const_cast<void*>(args.inputs[0].data()))},
          {DNNL_ARG_WEIGHTS, memory(weights_, engine, const_cast<void*>(packed_->parts[0].data()))},
          {DNNL_ARG_DST, memory(target_, engine, args.outputs[0].data())},
          {DNNL_ARG_SCRATCHPAD, memory(scratch_, engine, args.scratch.data())},
      };
      if (bias_weight_.defined()) {
        arguments.emplace(DNNL_ARG_BIAS, memory(bias_, engine, const_cast<void*>(bias_weight_.data())));
      }
      primitive_.execute(onednn_stream(), arguments);
      onednn_stream().wait();
    });
  }

 private:
  memory::desc source_;
  memory::desc bias_;
  memory::desc weights_;
  memory::desc target_;
  memory::desc scratch_;
  dnnl::convolution_forward primitive_;
  std::shared_ptr<const PackedWeight> packed_;
  Tensor bias_weight_;
};

Refusal supports(const KernelRequest& request) {
  const Tensor& x = request.inputs[0].prototype;
  if (x.dtype() == DType::bf16 && !has_native_bf16()) return "bfloat16 products need a CPU level of avx512_bf16";
  if (x.dtype() != DType::f32 && x.dtype() != DType::bf16) return "takes float32 and bfloat16 only";
  if (request.inputs[1].prototype.dtype() != x.dtype()) return "takes input and weight of one dtype only";
  if (!x.is_dense()) return "takes a dense input only";
  for (const KernelInput& parameter : request.inputs.subspan(1)) {
    if (parameter.weight.empty()) return "takes stored weights only";
  }
  if (request.inputs.size() == 3 && request.inputs[2].prototype.dtype() != DType::f32)
    return "takes a float32 bias only";
  if (x.elements() == 0) return "takes no empty input";
  return std::nullopt;
}

constexpr std::array kEntries{
    KernelEntry{"conv2d", "onednn", true, supports, [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
                  return with_onednn_errors("conv2d", [&] { return std::make_unique<OnednnConv2d>(request); });
                }}};

}  // namespace

std::span<const KernelEntry> conv2d_kernels() { return kEntries; }

}  // namespace rondo::cpu
