// The attention kernel "flash-int8": keys and values are quantised once, block by block, then chunks of queries meet
// them.
#include <algorithm>
#include <vector>

#include "attention/quantized_attention.h"
#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/flash_chunks.h"
#include "backends/cpu/flash_int8.h"
#include "backends/cpu/key_means.h"
#include "backends/cpu/simd_head_rows.h"
#include "core/threads.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kQueriesOfChunk = 256;

std::int64_t blocks_of(std::int64_t keys) { return (keys + kKeysOfBlock - 1) / kKeysOfBlock; }

/// The one whose integers are those of the model.
FlashInt8 implementation() { return int8_ranges().query == kInt8Limit ? flash_int8_vnni() : flash_int8_simd(); }

class Int8Runner final : public AttentionRunner {
 public:
  Int8Runner(const AttentionProblem& problem, std::int64_t chunk, int threads)
      : implementation_(implementation()),
        signs_(problem.quantization.rotates ? rotation_signs() : nullptr),
        chunk_(chunk == 0 ? kQueriesOfChunk / implementation_.block.queries : chunk),
        block_bytes_(flash_int8_block_bytes(problem.head_dim, problem.value_dim)),
        mean_bytes_(KeyMeans::bytes(problem)),
        packed_bytes_(problem.varlen
                          ? 0
                          : static_cast<std::size_t>(problem.batch * problem.key_heads * blocks_of(problem.keys)) *
                                block_bytes_),
        bytes_per_thread_(flash_int8_scratch_bytes(problem.head_dim, problem.value_dim)),
        threads_(threads) {}

  // Of packed sequences only the longest is known before: theirs are allocated when they come.
  std::size_t scratch_bytes() const override {
    return mean_bytes_ + packed_bytes_ + bytes_per_thread_ * static_cast<std::size_t>(threads_);
  }

  void run(const AttentionCall& call, std::span<std::byte> scratch) const override {
    // Where the blocks of each sequence begin; those of its key heads follow one another.
    std::vector<std::int64_t> begins{0};
    std::vector<PackItem> items;
    const std::int64_t key_heads = call.key.shape()[2];
    for (const AttentionSequence& s : call.sequences) {
      for (std::int64_t i = 0; i < key_heads * blocks_of(s.keys); ++i)
        items.push_back({&s, i / blocks_of(s.keys), i % blocks_of(s.keys) * kKeysOfBlock});
      begins.push_back(static_cast<std::int64_t>(items.size()));
    }
    const KeyMeans means(call, mean_bytes_ == 0 ? nullptr : reinterpret_cast<float*>(scratch.data()));
    const auto heads_of = [&](const AttentionSequence& s, std::int64_t key_head) {
      FlashHeads heads = flash_heads(call, s, key_head);
      heads.quantization.signs = signs_;
      heads.quantization.key_mean = means.of(s, key_head);
      return heads;
    };
    Tensor own;
    if (packed_bytes_ == 0) {
      own =
          Tensor::empty({static_cast<std::int64_t>(items.size()), static_cast<std::int64_t>(block_bytes_)}, DType::u8);
    }
    std::byte* blocks = packed_bytes_ == 0 ? own.as<std::byte>() : scratch.data() + mean_bytes_;
    const auto packed = [&](std::int64_t block) { return blocks + static_cast<std::size_t>(block) * block_bytes_; };
    parallel_items(call.threads, static_cast<std::int64_t>(items.size()), [&](std::int64_t i, int /*worker*/) {
      const PackItem& item = items[static_cast<std::size_t>(i)];
      flash_int8_pack(heads_of(*item.sequence, item.key_head), item.key, implementation_.block.zero, packed(i));
    });
    const std::vector<FlashChunk> chunks = cut_chunks(call, implementation_.block.queries, chunk_, false);
    parallel_items(call.threads, static_cast<std::int64_t>(chunks.size()), [&](std::int64_t i, int worker) {
      const FlashChunk& chunk = chunks[static_cast<std::size_t>(i)];
      const auto sequence = static_cast<std::size_t>(chunk.sequence - call.sequences.data());
      const std::int64_t first = begins[sequence] + chunk.key_head * blocks_of(chunk.sequence->keys);
      implementation_.run(
          heads_of(*chunk.sequence, chunk.key_head), packed(first), chunk.first, chunk.last,
          scratch.data() + mean_bytes_ + packed_bytes_ + static_cast<std::size_t>(worker) * bytes_per_thread_);
    });
    means.put_back();
  }

 private:
  struct PackItem {
    const AttentionSequence* sequence;
    std::int64_t key_head;
    std::int64_t key;
  };

  FlashInt8 implementation_;
  const float* signs_;
  std::int64_t chunk_;
  std::size_t block_bytes_;
  std::size_t mean_bytes_;
  std::size_t packed_bytes_;
  std::size_t bytes_per_thread_;
  int threads_;
};

class FlashInt8Kernel final : public AttentionKernel {
 public:
  std::string_view name() const override { return "flash-int8"; }
  std::string_view description() const override {
    return "8-bit integers, quantised on the way; any mask, causal, LSE, varlen, head dims to 512";
  }
  bool takes(KvCacheDtype dtype) const override { return dtype == KvCacheDtype::int8; }
  AttentionRefusal supports(const AttentionProblem& problem) const override {
    return refuse_wide_heads(problem, kWidestQuantizedHead);
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& tiling,
                                        int threads) const override {
    return std::make_unique<Int8Runner>(problem, tiling.chunk, threads);
  }
};

}  // namespace

std::shared_ptr<const AttentionKernel> flash_int8_attention_kernel() { return std::make_shared<FlashInt8Kernel>(); }

}  // namespace rondo::cpu
