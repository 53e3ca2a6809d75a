// "flash-mma" and "flash-cuda": Rondo's own kernels on a GPU, for what cuDNN refuses; on tensor cores, and for the
// rest.
#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {
namespace {

class FlashRunner final : public AttentionRunner {
 public:
  explicit FlashRunner(bool on_tensor_cores) : on_tensor_cores_(on_tensor_cores) {}
  std::size_t scratch_bytes() const override { return 0; }

  void run(const AttentionCall& call, std::span<std::byte> /*scratch*/) const override {
    const CudaRun run(*call.device, *call.stream);
    const Shape& q = call.query.shape();
    const std::int64_t keys = call.key.shape()[1];
    bool whole = static_cast<std::int64_t>(call.sequences.size()) == q[0];
    for (const AttentionSequence& s : call.sequences)
      whole = whole && s.query_begin == 0 && s.queries == q[1] && s.key_begin == 0 && s.keys == keys;
    if (whole) return run_one(run, call, call.query, call.key, call.value, call.output, call.lse);
    for (const AttentionSequence& s : call.sequences) {
      const auto part = [&](const Tensor& x, std::int64_t begin, std::int64_t count) {
        return x.sliced(0, s.batch, s.batch + 1).sliced(1, begin, begin + count);
      };
      Tensor lse;
      if (call.lse.defined())
        lse = call.lse.sliced(0, s.batch, s.batch + 1).sliced(2, s.query_begin, s.query_begin + s.queries);
      run_one(run, call, part(call.query, s.query_begin, s.queries), part(call.key, s.key_begin, s.keys),
              part(call.value, s.key_begin, s.keys), part(call.output, s.query_begin, s.queries), lse);
    }
  }

 private:
  void run_one(const CudaRun& run, const AttentionCall& call, const Tensor& given_query, const Tensor& given_key,
               const Tensor& given_value, const Tensor& output, Tensor lse) const {
    if (output.elements() == 0) return;
    const Tensor query = on_tensor_cores_ ? with_whole_loads(run, given_query) : given_query;
    const Tensor key = on_tensor_cores_ ? with_whole_loads(run, given_key) : given_key;
    const Tensor value = on_tensor_cores_ ? with_whole_loads(run, given_value) : given_value;
    AttentionLaunch launch;
    launch.query = view_of(query);
    launch.key = view_of(key);
    launch.value = view_of(value);
    launch.output = view_of(output);
    const Shape& q = query.shape();
    if (call.mask.defined()) launch.mask = repeated_view(call.mask, {q[0], q[2], q[1], key.shape()[1]});
    if (lse.defined()) {
      launch.lse = lse.as<float>();
      launch.lse_batch_stride = lse.strides()[0];
      launch.lse_head_stride = lse.strides()[1];
    }
    launch.scale = call.scale;
    launch.causal = call.causal;
    on_tensor_cores_ ? attend_on_tensor_cores(launch, run.handle()) : attend(launch, run.handle());
  }

  bool on_tensor_cores_;
};

AttentionRefusal refuse_shapes(const AttentionProblem& p) {
  if (p.head_dim > kWidestHead || p.value_dim > kWidestHead) return "takes head dims up to 256 only";
  if (p.key_heads == 0) return "takes at least one head";
  return std::nullopt;
}

class FlashMmaAttention final : public AttentionKernel {
 public:
  std::string_view name() const override { return "flash-mma"; }
  std::string_view description() const override {
    return "tensor cores; bfloat16, float16; any mask, causal, GQA, LSE, varlen, head dims in multiples of 8 to 256";
  }
  DeviceKind device() const override { return DeviceKind::cuda; }
  bool rounds_weights() const override { return true; }
  AttentionRefusal unavailable() const override { return no_gpu(); }
  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.dtype == DType::f32) return "takes bfloat16 and float16 only";
    if (p.head_dim % 8 != 0 || p.value_dim % 8 != 0) return "takes head dims in multiples of 8 only";
    return refuse_shapes(p);
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& /*problem*/, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    return std::make_unique<FlashRunner>(true);
  }
};

class FlashAttention final : public AttentionKernel {
 public:
  std::string_view name() const override { return "flash-cuda"; }
  std::string_view description() const override {
    return "float32 arithmetic without tensor cores; float32, bfloat16, float16; any mask, causal, GQA, LSE, varlen, "
           "head dims to 256";
  }
  DeviceKind device() const override { return DeviceKind::cuda; }
  AttentionRefusal unavailable() const override { return no_gpu(); }
  AttentionRefusal supports(const AttentionProblem& p) const override { return refuse_shapes(p); }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& /*problem*/, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    return std::make_unique<FlashRunner>(false);
  }
};

}  // namespace

std::shared_ptr<const AttentionKernel> flash_mma_attention_kernel() { return std::make_shared<FlashMmaAttention>(); }
std::shared_ptr<const AttentionKernel> flash_attention_kernel() { return std::make_shared<FlashAttention>(); }

}  // namespace rondo::cuda
