// Attention by float32 SIMD flash attention; bfloat16 operands are widened as they are packed.
#include <algorithm>
#include <array>

#include "attention/attention_op.h"
#include "backends/cpu/function_kernel.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/simd_attention.h"
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

/// Into how many ranges of query rows each head is cut, so that all threads have work to the end. Each range packs its
/// head's keys again, which costs about as much as one query row per 2 keys packed: never below 96 rows a range.
std::int64_t query_splits(std::int64_t heads, std::int64_t queries, int threads) {
  const std::int64_t most = std::max<std::int64_t>(1, queries / 96);
  for (std::int64_t splits = 1; splits <= most; ++splits) {
    if (heads * splits % threads == 0 || heads * splits >= std::int64_t{8} * threads) return splits;
  }
  return most;
}

std::unique_ptr<Kernel> make_flash(const KernelRequest& request) {
  const auto& op = static_cast<const AttentionOp&>(request.op);
  const Shape q = request.inputs[0].prototype.shape();
  const Shape k = request.inputs[1].prototype.shape();
  const std::size_t per_thread = flash_scratch_bytes(k[1], q[3], request.inputs[2].prototype.shape()[3]);
  const auto run = [per_thread, scale = static_cast<float>(op.scale()), causal = op.causal()](const KernelArgs& args) {
    FlashProblem problem{args.inputs[0], args.inputs[1], args.inputs[2], {}, args.outputs[0], scale, causal};
    if (args.inputs.size() == 4) problem.bias = args.inputs[3];
    const Shape& shape = args.inputs[0].shape();
    const std::int64_t heads = shape[0] * shape[2];
    const std::int64_t splits = query_splits(heads, shape[1], args.threads);
    parallel_items(args.threads, heads * splits, [&](std::int64_t item, int worker) {
      auto* scratch = reinterpret_cast<float*>(args.scratch.data() + static_cast<std::size_t>(worker) * per_thread);
      const std::int64_t head = item / splits;
      const std::int64_t part = item % splits;
      flash_attention_rows(problem, head / shape[2], head % shape[2], shape[1] * part / splits,
                           shape[1] * (part + 1) / splits, scratch);
    });
  };
  return make_kernel(run, per_thread * static_cast<std::size_t>(request.threads));
}

constexpr std::array kEntries{KernelEntry{"attention", "flash", false, supports_flash, make_flash}};

}  // namespace

std::span<const KernelEntry> flash_attention_kernels() { return kEntries; }

}  // namespace rondo::cpu
