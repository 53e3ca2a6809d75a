// Attention on Ascend: what the registry takes from this backend.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "attention/attention_kernel.h"
#include "backends/ascend/acl_call.h"

namespace rondo::ascend {

/// What kernels know of CANN and the chip.
class AttentionSupport {
 public:
  explicit AttentionSupport(std::shared_ptr<const AclLibrary> library) : library_(std::move(library)) {}
  const SocCapabilities& capabilities() const;
  bool has(const char* name) const { return library_->find(name) != nullptr; }
  /// Why nothing runs at all.
  AttentionRefusal unavailable() const;

 private:
  std::shared_ptr<const AclLibrary> library_;
};

/// Best first.
std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels(const AttentionSupport& support);

std::shared_ptr<const AttentionKernel> fused_infer_attention_kernel(const AttentionSupport& support);
std::shared_ptr<const AttentionKernel> fp8_attention_kernel(const AttentionSupport& support);
std::shared_ptr<const AttentionKernel> prompt_flash_attention_kernel(const AttentionSupport& support);
std::shared_ptr<const AttentionKernel> laser_attention_kernel(const AttentionSupport& support);
std::shared_ptr<const AttentionKernel> math_attention_kernel(const AttentionSupport& support);

/// A runner made of one function, which is called for a batch whose sequences are alike, or for each sequence,
/// always with keys.
class AclAttentionRunner final : public AttentionRunner {
 public:
  using Function = std::function<void(AclCaller& acl, const AttentionCall& call)>;
  explicit AclAttentionRunner(Function function) : function_(std::move(function)) {}
  std::size_t scratch_bytes() const override { return 0; }
  void run(const AttentionCall& call, std::span<std::byte> scratch) const override;

 private:
  Function function_;
};

/// Runs a fused operator into memory that it takes: dense, of the operands' dtype. A partial result in float32 has been
/// rounded to it.
void into_fused(AclCaller& acl, const AttentionCall& call, const std::function<void(const Tensor& y)>& compute);

/// What the fused operators refuse alike: float32, bfloat16 where the chip has none, masks that are added or differ
/// between heads, causality with a mask, values of another width than keys, an LSE of rows that may see nothing, heads
/// that they do not take.
AttentionRefusal refuse_fused(const AttentionProblem& problem, const SocCapabilities& chip);

/// A mask (boolean, true = keep) as the fused operators take it: [B or 1, 1, Sq, Sk], of one
/// query [B, 1, 1, Sk], true = hidden.
Tensor hidden_mask(AclCaller& acl, const Tensor& mask, std::int64_t batch, std::int64_t queries, std::int64_t keys);

/// A constant of a runner, on the device of its first run.
class UploadedOnce {
 public:
  explicit UploadedOnce(Tensor host) : host_(std::move(host)) {}
  const Tensor& on(const ExecutionDevice& device) {
    const std::lock_guard lock(mutex_);
    if (!copy_.defined()) copy_ = device.upload(host_);
    return copy_;
  }

 private:
  std::mutex mutex_;
  Tensor host_;
  Tensor copy_;
};

/// boolean [queries, keys], true = hidden: query i sees keys up to i + shift.
Tensor causal_mask(std::int64_t queries, std::int64_t keys, std::int64_t shift);

/// Query, key and value in one layout of the fused operators, dense; the output lies as BSND in all.
struct FusedOperands {
  Tensor query;
  Tensor key;
  Tensor value;
  const char* layout;  // "BSND", "BNSD_BSND" or "BSH"

  /// An output [B, S, N, D] as this layout has it.
  Tensor output(const Tensor& y) const;
};
/// In `layout`; nothing: as they lie.
FusedOperands fused_operands(AclCaller& acl, const AttentionCall& call, std::optional<AttentionLayout> layout);

/// What Rondo says to FusedInferAttentionScoreV5, which the newest chips have; the rest is as if it were not there.
struct FusedInferV5 {
  const aclTensor* query = nullptr;
  const aclTensorList* key = nullptr;
  const aclTensorList* value = nullptr;
  const aclTensor* mask = nullptr;
  std::int64_t heads = 0;
  std::int64_t key_heads = 0;
  double scale = 1;
  std::string layout;
  std::int64_t sparse_mode = 0;
  std::int64_t inner_precise = 0;
  // Of quantised operands: 0, or how their scales are meant.
  std::int64_t quant_mode = 0;
  const aclTensor* query_scale = nullptr;
  const aclTensor* key_scale = nullptr;
  const aclTensor* value_scale = nullptr;
  const aclTensor* output = nullptr;
  const aclTensor* lse = nullptr;  // where it is wanted

  void run(AclCaller& acl);
};

/// sparseMode of the fused operators
constexpr std::int64_t kWholeMask = 0;
constexpr std::int64_t kCausalBottomRight = 3;
/// preTokens, nextTokens: no window
constexpr std::int64_t kNoWindow = std::numeric_limits<std::int32_t>::max();
/// innerPrecise: high precision; where rows may see nothing they come out as zeros.
inline std::int64_t inner_precise(const AttentionCall& call) {
  constexpr std::int64_t kHigh = 0;
  constexpr std::int64_t kHighWithEmptyRows = 2;
  return call.mask.defined() && call.query.shape()[1] > 1 ? kHighWithEmptyRows : kHigh;
}

/// Every layout that the fused operators take: which is the fastest, and whether it is worth a copy, is measured.
std::vector<AttentionTiling> fused_tilings();

}  // namespace rondo::ascend
