// Attention by float32 SIMD flash attention; bfloat16 operands are widened as they are packed.
#include <algorithm>
#include <array>

#include "attention/attention_op.h"
#include "backends/cpu/flash_attention.h"
#include "backends/cpu/function_kernel.h"
#include "backends/cpu/kernels.h"
#include "core/threads.h"

namespace rondo::cpu {
namespace {

Refusal supports_flash(const KernelRequest& request) {
  if (request.inputs.size() == 4) {
    const Tensor& bias = request.inputs[3].prototype;
    if (bias.strides()[3] != 1 && bias.shape()[3] != 1) return "takes a bias with dense rows only";
  }
  if (request.inputs[0].prototype.elements() == 0 || request.inputs[1].prototype.elements() == 0) {
    return "takes no empty operands";
  }
  return refuse_unless_simd_rows(request, 3);
}

/// The query heads of batch row `batch` that share key head `key_head`.
FlashHeads heads_of(const KernelArgs& args, const AttentionOp& op, std::int64_t batch, std::int64_t key_head) {
  const Tensor& q = args.inputs[0];
  const Tensor& k = args.inputs[1];
  const Tensor& v = args.inputs[2];
  const Tensor& out = args.outputs[0];
  const std::int64_t group = q.shape()[2] / k.shape()[2];
  const auto at = [&](const Tensor& tensor, std::int64_t head) {
    const std::int64_t offset = batch * tensor.strides()[0] + head * tensor.strides()[2];
    return const_cast<std::byte*>(tensor.as<std::byte>()) +
           offset * static_cast<std::int64_t>(dtype_size(tensor.dtype()));
  };
  FlashHeads heads{};
  heads.dtype = q.dtype();
  heads.query = at(q, key_head * group);
  heads.key = at(k, key_head);
  heads.value = at(v, key_head);
  heads.output = at(out, key_head * group);
  heads.query_stride = q.strides()[1];
  heads.key_stride = k.strides()[1];
  heads.value_stride = v.strides()[1];
  heads.output_stride = out.strides()[1];
  heads.query_head_stride = q.strides()[2];
  heads.output_head_stride = out.strides()[2];
  if (args.inputs.size() == 4) {
    const Tensor& bias = args.inputs[3];
    const auto stride = [&](std::size_t axis) { return bias.shape()[axis] == 1 ? 0 : bias.strides()[axis]; };
    heads.mask = bias.as<float>() + batch * stride(0) + key_head * group * stride(1);
    heads.mask_dtype = DType::f32;
    heads.mask_head_stride = stride(1);
    heads.mask_query_stride = stride(2);
  }
  heads.group = group;
  heads.queries = q.shape()[1];
  heads.keys = k.shape()[1];
  heads.head_dim = q.shape()[3];
  heads.value_dim = v.shape()[3];
  heads.scale = static_cast<float>(op.scale());
  heads.causal = op.causal();
  return heads;
}

class FlashAttention final : public Kernel {
 public:
  explicit FlashAttention(const KernelRequest& request)
      : op_(static_cast<const AttentionOp&>(request.op)),
        bytes_per_thread_(
            flash_scratch_bytes(request.inputs[0].prototype.shape()[3], request.inputs[2].prototype.shape()[3])),
        threads_(request.threads) {}

  std::size_t scratch_bytes() const override { return bytes_per_thread_ * static_cast<std::size_t>(threads_); }

  void run(const KernelArgs& args) const override {
    const Shape& q = args.inputs[0].shape();
    const std::int64_t key_heads = args.inputs[1].shape()[2];
    const std::int64_t block = flash_block_queries();
    const std::int64_t blocks = (q[1] + block - 1) / block * (q[2] / key_heads);
    // Fewer blocks a call where calls would be too few for the threads: each call packs its keys and values anew.
    const std::int64_t calls_wanted = std::int64_t{4} * args.threads;
    const std::int64_t chunk = std::clamp<std::int64_t>(q[0] * key_heads * blocks / calls_wanted, 1, kFlashChunk);
    const std::int64_t chunks = (blocks + chunk - 1) / chunk;
    parallel_items(args.threads, q[0] * key_heads * chunks, [&](std::int64_t item, int worker) {
      const std::int64_t sequence = item / chunks;
      const std::int64_t part = item % chunks;
      flash_attention(heads_of(args, op_, sequence / key_heads, sequence % key_heads), blocks * part / chunks,
                      blocks * (part + 1) / chunks,
                      args.scratch.data() + static_cast<std::size_t>(worker) * bytes_per_thread_);
    });
  }

 private:
  AttentionOp op_;
  std::size_t bytes_per_thread_;
  int threads_;
};

std::unique_ptr<Kernel> make_flash(const KernelRequest& request) { return std::make_unique<FlashAttention>(request); }

constexpr std::array kEntries{KernelEntry{"attention", "flash", false, supports_flash, make_flash}};

}  // namespace

std::span<const KernelEntry> flash_attention_kernels() { return kEntries; }

}  // namespace rondo::cpu
