// "flash-cuda": Rondo's own kernel on a GPU, for what cuDNN refuses.
#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {
namespace {

class FlashRunner final : public AttentionRunner {
 public:
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
  static void run_one(const CudaRun& run, const AttentionCall& call, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& output, Tensor lse) {
    if (output.elements() == 0) return;
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
    attend(launch, run.handle());
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
  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.head_dim > kWidestHead || p.value_dim > kWidestHead) return "takes head dims up to 256 only";
    if (p.key_heads == 0) return "takes at least one head";
    return std::nullopt;
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& /*problem*/, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const override {
    return std::make_unique<FlashRunner>();
  }
};

}  // namespace

std::shared_ptr<const AttentionKernel> flash_attention_kernel() { return std::make_shared<FlashAttention>(); }

}  // namespace rondo::cuda
