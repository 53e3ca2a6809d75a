// Attention in bfloat16 whose two products are oneDNN's and whose softmax is ours: a block of query rows at a time
// against all keys, so that scores stay in the cache. Keys and values are packed once a head.
#include <algorithm>
#include <array>
#include <utility>

#include "backends/cpu/attention_kernels.h"
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

/// Brings one head's dense rows into the layout that a product wants.
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

class OnednnRunner final : public AttentionRunner {
 public:
  OnednnRunner(const AttentionProblem& problem, int threads)
      : keys_(problem.keys), head_dim_(problem.head_dim), value_dim_(problem.value_dim), threads_(threads) {
    // Scores in float32 and weights in bfloat16 of a block fill at most 1 MiB, half a level-2 cache; fewer than 32 rows
    // would leave the product's registers empty.
    constexpr std::int64_t kBlockBytes = 1 << 20;
    block_ = std::clamp<std::int64_t>(kBlockBytes / (6 * keys_) / 32 * 32, 32, 256);
    block_ = std::min(block_, problem.queries);
    tail_ = problem.queries % block_;

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
    pack_keys_ = HeadPacker({{head_dim_, keys_}, kBf16, memory::dims{1, head_dim_}}, scores_.weights());
    pack_values_ = HeadPacker({{keys_, value_dim_}, kBf16, memory::dims{value_dim_, 1}}, values_.weights());
    if (tail_ != 0) {
      tail_scores_ = score_product(tail_, scores_.weights());
      tail_values_ = value_product(tail_, values_.weights());
    }
    const auto rows = static_cast<std::size_t>(block_);
    const auto keys = static_cast<std::size_t>(keys_);
    const auto widest = static_cast<std::size_t>(std::max(head_dim_, value_dim_));
    part_bytes_ = {padded(scores_.weights().get_size()),
                   padded(values_.weights().get_size()),
                   padded(std::max(rows, keys) * widest * sizeof(std::uint16_t)),
                   padded(rows * keys * sizeof(float)),
                   padded(rows * keys * sizeof(std::uint16_t)),
                   padded(rows * static_cast<std::size_t>(value_dim_) * sizeof(float)),
                   padded(rows * sizeof(float)),
                   padded(std::max({scores_.scratch_bytes(), values_.scratch_bytes(),
                                    tail_ != 0 ? tail_scores_.scratch_bytes() : 0,
                                    tail_ != 0 ? tail_values_.scratch_bytes() : 0}))};
    for (const std::size_t bytes : part_bytes_) bytes_per_thread_ += bytes;
  }

  std::size_t scratch_bytes() const override { return bytes_per_thread_ * static_cast<std::size_t>(threads_); }

  void run(const AttentionCall& call, std::span<std::byte> scratch) const override {
    const Shape& q = call.query.shape();
    // One head is one item: there are more heads than threads in every model, and each packs its keys once.
    parallel_items(call.threads, q[0] * q[2], [&](std::int64_t item, int worker) {
      run_head(call, item / q[2], item % q[2], scratch.data() + static_cast<std::size_t>(worker) * bytes_per_thread_);
    });
  }

 private:
  void run_head(const AttentionCall& call, std::int64_t batch, std::int64_t head, std::byte* scratch) const {
    std::array<std::byte*, kParts> part{};
    for (std::size_t i = 0; i < kParts; ++i) part[i] = std::exchange(scratch, scratch + part_bytes_[i]);
    auto* scores = reinterpret_cast<float*>(part[kScores]);
    auto* dense = reinterpret_cast<std::uint16_t*>(part[kDenseRows]);
    auto* weights = reinterpret_cast<std::uint16_t*>(part[kWeights]);
    auto* sums = reinterpret_cast<float*>(part[kSums]);

    const auto at = [&](const Tensor& tensor, std::int64_t position, std::int64_t head_index) {
      const Shape& strides = tensor.strides();
      return const_cast<std::uint16_t*>(tensor.as<std::uint16_t>()) + batch * strides[0] + position * strides[1] +
             head_index * strides[2];
    };
    // oneDNN's fast product takes dense rows only.
    const auto gather = [&](const Tensor& tensor, std::int64_t head_index, std::int64_t first, std::int64_t count) {
      const std::int64_t width = tensor.shape()[3];
      for (std::int64_t r = 0; r < count; ++r) std::copy_n(at(tensor, first + r, head_index), width, dense + r * width);
      return dense;
    };
    const std::int64_t queries = call.query.shape()[1];
    const std::int64_t key_head = head / (call.query.shape()[2] / call.key.shape()[2]);
    pack_keys_.run(gather(call.key, key_head, 0, keys_), part[kPackedKeys]);
    pack_values_.run(gather(call.value, key_head, 0, keys_), part[kPackedValues]);

    for (std::int64_t first = 0; first < queries; first += block_) {
      const std::int64_t rows = std::min(block_, queries - first);
      const bool whole = rows == block_;
      gather(call.query, head, first, rows);
      (whole ? scores_ : tail_scores_).run(dense, part[kPackedKeys], scores, part[kPrimitiveScratch]);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t visible =
            call.causal ? std::clamp<std::int64_t>(first + r + 1 + keys_ - queries, 0, keys_) : keys_;
        sums[r] = softmax_row_to_bf16(scores + r * keys_, call.scale, visible, keys_, weights + r * keys_);
      }
      auto* mixed = reinterpret_cast<float*>(part[kMixed]);
      (whole ? values_ : tail_values_).run(weights, part[kPackedValues], mixed, part[kPrimitiveScratch]);
      for (std::int64_t r = 0; r < rows; ++r) {
        scale_row_to_bf16(mixed + r * value_dim_, sums[r] == 0 ? 0.0F : 1.0F / sums[r], value_dim_,
                          at(call.output, first + r, head));
      }
    }
  }

  /// The parts of a thread's scratch.
  enum Part : std::size_t {
    kPackedKeys,
    kPackedValues,
    kDenseRows,
    kScores,
    kWeights,
    kMixed,
    kSums,
    kPrimitiveScratch,
    kParts
  };

  std::int64_t keys_;
  std::int64_t head_dim_;
  std::int64_t value_dim_;
  int threads_;
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
};

class OnednnKernel final : public AttentionKernel {
 public:
  std::string_view name() const override { return "onednn-bf16"; }
  bool rounds_weights() const override { return true; }
  std::string_view description() const override {
    return "oneDNN's bfloat16 products, whole rows of scores; no masks, no LSE; memory grows with the keys";
  }
  AttentionRefusal unavailable() const override {
    if (!has_native_bf16()) return "needs a CPU level of avx512_bf16";
    return std::nullopt;
  }
  AttentionRefusal supports(const AttentionProblem& problem) const override {
    if (problem.dtype != DType::bf16) return "takes bfloat16 only";
    if (problem.mask != MaskKind::none) return "takes no mask";
    if (problem.lse) return "returns no LSE";
    if (problem.varlen) return "takes sequences of one length only";
    // Below this the calls cost more than the products: measured on models/emoji, 96 tokens.
    if (problem.keys < kFewestKeys) return fmt::format("pays from {} keys on", kFewestKeys);
    return std::nullopt;
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& /*tiling*/,
                                        int threads) const override {
    return with_onednn_errors("attention", [&] { return std::make_unique<OnednnRunner>(problem, threads); });
  }
};

}  // namespace

std::shared_ptr<const AttentionKernel> onednn_attention_kernel() { return std::make_shared<OnednnKernel>(); }

}  // namespace rondo::cpu
