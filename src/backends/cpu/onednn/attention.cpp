// Attention in bfloat16 whose two products are oneDNN's and whose softmax is ours: a block of query rows at a time
// against all keys, so that scores stay in the cache. Keys and values are packed once a head.
#include <algorithm>
#include <array>
#include <utility>

#include "attention/attention_op.h"
#include "backends/cpu/function_kernel.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/onednn/primitives.h"
#include "backends/cpu/onednn/weights.h"
#include "backends/cpu/simd_softmax.h"
#include "core/cpu_level.h"
#include "core/threads.h"

namespace rondo::cpu {
namespace {

using dnnl::memory;

constexpr std::int64_t kFewestKeys = 256;
constexpr std::size_t kAlignment = 64;
std::size_t padded(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// A product of fixed shape, run by one thread inside a parallel loop.
class BlockProduct {
 public:
  BlockProduct() = default;
  BlockProduct(const memory::desc& source, const memory::desc& weights, const memory::desc& target)
      : source_(source), target_(target) {
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto primitive = matmul_primitive(onednn_engine(), source, weights, memory::desc(), target, attr);
    weights_ = primitive.weights_desc();
    scratch_ = primitive.scratchpad_desc();
    primitive_ = dnnl::matmul(primitive);
  }
  const memory::desc& weights() const { return weights_; }
  std::size_t scratch_bytes() const { return scratch_.get_size(); }
  void run(const void* source, const void* weights, void* target, void* scratch) const {
    const dnnl::engine& engine = onednn_engine();
    primitive_.execute(onednn_stream(), {{DNNL_ARG_SRC, memory(source_, engine, const_cast<void*>(source))},
                                         {DNNL_ARG_WEIGHTS, memory(weights_, engine, const_cast<void*>(weights))},
                                         {DNNL_ARG_DST, memory(target_, engine, target)},
                                         {DNNL_ARG_SCRATCHPAD, memory(scratch_, engine, scratch)}});
  }

 private:
  memory::desc source_;
  memory::desc weights_;
  memory::desc target_;
  memory::desc scratch_;
  dnnl::matmul primitive_;
};

/// Brings one head's keys or values into the layout that a product wants.
class HeadPacker {
 public:
  HeadPacker() = default;
  HeadPacker(const memory::desc& plain, const memory::desc& packed)
      : plain_(plain),
        packed_(packed),
        reorder_(dnnl::reorder::primitive_desc(onednn_engine(), plain, onednn_engine(), packed)) {}
  void run(const void* source, void* target) const {
    memory from(plain_, onednn_engine(), const_cast<void*>(source));
    memory to(packed_, onednn_engine(), target);
    reorder_.execute(onednn_stream(), from, to);
  }

 private:
  memory::desc plain_;
  memory::desc packed_;
  dnnl::reorder reorder_;
};

class OnednnAttention final : public Kernel {
 public:
  explicit OnednnAttention(const KernelRequest& request) {
    const auto& op = static_cast<const AttentionOp&>(request.op);
    scale_ = static_cast<float>(op.scale());
    causal_ = op.causal();
    const Tensor& q = request.inputs[0].prototype;
    const Tensor& k = request.inputs[1].prototype;
    const Tensor& v = request.inputs[2].prototype;
    keys_ = k.shape()[1];
    value_dim_ = v.shape()[3];
    head_dim_ = q.shape()[3];
    // Scores in float32 and weights in bfloat16 of a block fill at most 1 MiB, half a level-2 cache; fewer than 32 rows
    // would leave the product's registers empty.
    constexpr std::int64_t kBlockBytes = 1 << 20;
    block_ = std::clamp<std::int64_t>(kBlockBytes / (6 * keys_) / 32 * 32, 32, 256);
    block_ = std::min(block_, q.shape()[1]);
    tail_ = q.shape()[1] % block_;

    // Made for one thread each: they run inside a parallel loop over heads.
    const ThreadTeamScope single(1);
    constexpr auto kBf16 = memory::data_type::bf16;
    constexpr auto kF32 = memory::data_type::f32;
    const auto score_product = [&](std::int64_t rows, const memory::desc& weights) {
      return BlockProduct({{rows, head_dim_}, kBf16, memory::format_tag::ab}, weights,
                          {{rows, keys_}, kF32, memory::format_tag::ab});
    };
    const auto value_product = [&](std::int64_t rows, const memory::desc& weights) {
      return BlockProduct({{rows, keys_}, kBf16, memory::format_tag::ab}, weights,
                          {{rows, value_dim_}, kF32, memory::format_tag::ab});
    };
    scores_ = score_product(block_, {{head_dim_, keys_}, kBf16, memory::format_tag::any});
    values_ = value_product(block_, {{keys_, value_dim_}, kBf16, memory::format_tag::any});
    pack_keys_ = HeadPacker({{head_dim_, keys_}, kBf16, memory::dims{1, k.strides()[1]}}, scores_.weights());
    pack_values_ = HeadPacker({{keys_, value_dim_}, kBf16, memory::dims{v.strides()[1], 1}}, values_.weights());
    if (tail_ != 0) {
      tail_scores_ = score_product(tail_, scores_.weights());
      tail_values_ = value_product(tail_, values_.weights());
    }
    const auto rows = static_cast<std::size_t>(block_);
    const auto keys = static_cast<std::size_t>(keys_);
    part_bytes_ = {padded(scores_.weights().get_size()),
                   padded(values_.weights().get_size()),
                   padded(rows * static_cast<std::size_t>(head_dim_) * sizeof(std::uint16_t)),
                   padded(rows * keys * sizeof(float)),
                   padded(rows * keys * sizeof(std::uint16_t)),
                   padded(rows * static_cast<std::size_t>(value_dim_) * sizeof(float)),
                   padded(rows * sizeof(float)),
                   padded(std::max({scores_.scratch_bytes(), values_.scratch_bytes(),
                                    tail_ != 0 ? tail_scores_.scratch_bytes() : 0,
                                    tail_ != 0 ? tail_values_.scratch_bytes() : 0}))};
    for (const std::size_t bytes : part_bytes_) bytes_per_thread_ += bytes;
    threads_ = request.threads;
  }

  std::size_t scratch_bytes() const override { return bytes_per_thread_ * static_cast<std::size_t>(threads_); }

  void run(const KernelArgs& args) const override {
    const Shape& q = args.inputs[0].shape();
    // One head is one item: there are more heads than threads in every model, and each packs its keys once.
    parallel_items(args.threads, q[0] * q[2], [&](std::int64_t item, int worker) {
      run_head(args, item / q[2], item % q[2],
               args.scratch.data() + static_cast<std::size_t>(worker) * bytes_per_thread_);
    });
  }

 private:
  void run_head(const KernelArgs& args, std::int64_t batch, std::int64_t head, std::byte* scratch) const {
    std::array<std::byte*, kParts> part{};
    for (std::size_t i = 0; i < kParts; ++i) part[i] = std::exchange(scratch, scratch + part_bytes_[i]);
    auto* scores = reinterpret_cast<float*>(part[kScores]);
    auto* queries_block = reinterpret_cast<std::uint16_t*>(part[kQueries]);
    auto* weights = reinterpret_cast<std::uint16_t*>(part[kWeights]);
    auto* sums = reinterpret_cast<float*>(part[kSums]);

    const auto at = [&](const Tensor& tensor, std::int64_t position, std::int64_t head_index) {
      const Shape& strides = tensor.strides();
      return const_cast<std::uint16_t*>(tensor.as<std::uint16_t>()) + batch * strides[0] + position * strides[1] +
             head_index * strides[2];
    };
    const Tensor& query = args.inputs[0];
    const std::int64_t queries = query.shape()[1];
    const std::int64_t key_head = head / (query.shape()[2] / args.inputs[1].shape()[2]);
    pack_keys_.run(at(args.inputs[1], 0, key_head), part[kPackedKeys]);
    pack_values_.run(at(args.inputs[2], 0, key_head), part[kPackedValues]);

    for (std::int64_t first = 0; first < queries; first += block_) {
      const std::int64_t rows = std::min(block_, queries - first);
      const bool whole = rows == block_;
      // oneDNN's fast product takes dense rows only.
      for (std::int64_t r = 0; r < rows; ++r) {
        std::copy_n(at(query, first + r, head), head_dim_, queries_block + r * head_dim_);
      }
      (whole ? scores_ : tail_scores_).run(queries_block, part[kPackedKeys], scores, part[kPrimitiveScratch]);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t visible =
            causal_ ? std::clamp<std::int64_t>(first + r + 1 + keys_ - queries, 0, keys_) : keys_;
        const float* bias = args.inputs.size() == 4 ? bias_row(args.inputs[3], batch, head, first + r) : nullptr;
        sums[r] = softmax_row_to_bf16(scores + r * keys_, scale_, bias, visible, keys_, weights + r * keys_);
      }
      auto* mixed = reinterpret_cast<float*>(part[kMixed]);
      (whole ? values_ : tail_values_).run(weights, part[kPackedValues], mixed, part[kPrimitiveScratch]);
      for (std::int64_t r = 0; r < rows; ++r) {
        scale_row_to_bf16(mixed + r * value_dim_, sums[r] > 0 ? 1.0F / sums[r] : 0.0F, value_dim_,
                          at(args.outputs[0], first + r, head));
      }
    }
  }

  static const float* bias_row(const Tensor& bias, std::int64_t batch, std::int64_t head, std::int64_t query) {
    const Shape& shape = bias.shape();
    const Shape& strides = bias.strides();
    return bias.as<float>() + (shape[0] == 1 ? 0 : batch * strides[0]) + (shape[1] == 1 ? 0 : head * strides[1]) +
           query * strides[2];
  }

  /// The parts of a thread's scratch.
  enum Part : std::size_t {
    kPackedKeys,
    kPackedValues,
    kQueries,
    kScores,
    kWeights,
    kMixed,
    kSums,
    kPrimitiveScratch,
    kParts
  };

  float scale_ = 1;
  bool causal_ = false;
  std::int64_t keys_ = 0;
  std::int64_t head_dim_ = 0;
  std::int64_t value_dim_ = 0;
  std::int64_t block_ = 0;
  std::int64_t tail_ = 0;
  BlockProduct scores_;
  BlockProduct values_;
  BlockProduct tail_scores_;
  BlockProduct tail_values_;
  HeadPacker pack_keys_;
  HeadPacker pack_values_;
  std::array<std::size_t, kParts> part_bytes_{};
  std::size_t bytes_per_thread_ = 0;
  int threads_ = 1;
};

Refusal supports(const KernelRequest& request) {
  if (!has_native_bf16()) return "needs a CPU level of avx512_bf16";
  for (std::size_t i = 0; i < 3; ++i) {
    const Tensor& operand = request.inputs[i].prototype;
    if (operand.dtype() != DType::bf16) return "takes bfloat16 only";
    if (operand.elements() == 0) return "takes no empty operands";
    if (operand.strides()[3] != 1 || operand.strides()[1] < operand.shape()[3]) return "takes dense rows only";
  }
  if (request.inputs.size() == 4 && request.inputs[3].prototype.strides()[3] != 1)
    return "takes a bias with dense rows only";
  // Below this the calls cost more than the products: measured on models/emoji, 96 tokens.
  if (request.inputs[1].prototype.shape()[1] < kFewestKeys) return "pays from 256 keys on";
  return std::nullopt;
}

constexpr std::array kEntries{KernelEntry{
    "attention", "onednn-bf16", false, supports, [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
      return with_onednn_errors("attention", [&] { return std::make_unique<OnednnAttention>(request); });
    }}};

}  // namespace

std::span<const KernelEntry> onednn_attention_kernels() { return kEntries; }

}  // namespace rondo::cpu
