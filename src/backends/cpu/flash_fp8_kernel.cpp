// The attention kernels with operands in e4m3: all are quantised first, block by block, then flash attention multiplies
// what they stand for.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "attention/quantization_limits.h"
#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/e4m3_operand.h"
#include "backends/cpu/flash_bf16.h"
#include "backends/cpu/flash_chunks.h"
#include "backends/cpu/key_means.h"
#include "backends/cpu/simd_head_rows.h"
#include "core/cpu_level.h"
#include "core/threads.h"

namespace rondo::cpu {
namespace {

/// The three operands of a problem.
struct Operands {
  Operands(std::int64_t heads, std::int64_t key_heads, std::int64_t head_dim, std::int64_t value_dim)
      : query(heads, head_dim, kE4m3Queries),
        key(key_heads, head_dim, kE4m3Keys),
        value(key_heads, value_dim, kE4m3Keys) {}

  /// Returns how many bytes they take; null `memory` asks for that only.
  std::size_t lay_out(std::span<const std::int64_t> queries, std::span<const std::int64_t> keys, std::byte* memory) {
    const auto after = [&](std::size_t bytes) { return memory == nullptr ? nullptr : memory + bytes; };
    std::size_t bytes = query.lay_out(queries, memory);
    bytes += key.lay_out(keys, after(bytes));
    return bytes + value.lay_out(keys, after(bytes));
  }

  E4m3Operand query;
  E4m3Operand key;
  E4m3Operand value;
};

class Fp8Runner final : public AttentionRunner {
 public:
  Fp8Runner(const FlashImplementation& implementation, const AttentionProblem& problem, const AttentionTiling& tiling,
            int threads)
      : implementation_(implementation),
        tiling_(implementation.tiling(tiling)),
        exact_chunk_(tiling.chunk != 0),
        signs_(problem.quantization.rotates ? rotation_signs() : nullptr),
        mean_bytes_(KeyMeans::bytes(problem)),
        operand_bytes_(problem.varlen ? 0 : operand_bytes(problem)),
        bytes_per_thread_(std::max(
            implementation.scratch_bytes(tiling_, problem.head_dim, problem.value_dim),
            static_cast<std::size_t>(kE4m3Keys * std::max(problem.head_dim, problem.value_dim)) * sizeof(float))),
        threads_(threads) {}

  // Of packed sequences only the longest is known before: their operands are allocated when they come.
  std::size_t scratch_bytes() const override {
    return mean_bytes_ + operand_bytes_ + bytes_per_thread_ * static_cast<std::size_t>(threads_);
  }

  void run(const AttentionCall& call, std::span<std::byte> scratch) const override {
    const KeyMeans means(call, mean_bytes_ == 0 ? nullptr : reinterpret_cast<float*>(scratch.data()));
    Operands operands(call.query.shape()[2], call.key.shape()[2], call.query.shape()[3], call.value.shape()[3]);
    std::vector<std::int64_t> queries;
    std::vector<std::int64_t> keys;
    for (const AttentionSequence& s : call.sequences) {
      queries.push_back(s.queries);
      keys.push_back(s.keys);
    }
    Tensor own;
    if (operand_bytes_ == 0)
      own = Tensor::empty({static_cast<std::int64_t>(operands.lay_out(queries, keys, nullptr))}, DType::u8);
    operands.lay_out(queries, keys, operand_bytes_ == 0 ? own.as<std::byte>() : scratch.data() + mean_bytes_);
    const auto scratch_of = [&](int worker) {
      return scratch.data() + mean_bytes_ + operand_bytes_ + static_cast<std::size_t>(worker) * bytes_per_thread_;
    };
    quantize(call, means, operands, scratch_of);
    const std::vector<FlashChunk> chunks = cut_chunks(call, implementation_.block_queries, tiling_.chunk, exact_chunk_);
    parallel_items(call.threads, static_cast<std::int64_t>(chunks.size()), [&](std::int64_t i, int worker) {
      const FlashChunk& chunk = chunks[static_cast<std::size_t>(i)];
      implementation_.run(heads_of(call, chunk, operands), tiling_, chunk.first, chunk.last, scratch_of(worker));
    });
    means.put_back();
  }

 private:
  static std::size_t operand_bytes(const AttentionProblem& p) {
    const auto batch = static_cast<std::size_t>(p.batch);
    return Operands(p.heads, p.key_heads, p.head_dim, p.value_dim)
        .lay_out(std::vector(batch, p.queries), std::vector(batch, p.keys), nullptr);
  }

  template <class ScratchOf>
  void quantize(const AttentionCall& call, const KeyMeans& means, const Operands& operands,
                const ScratchOf& scratch_of) const {
    struct Item {
      const E4m3Operand* operand;
      E4m3Operand::Block block;
    };
    std::vector<Item> items;
    for (const E4m3Operand* operand : {&operands.query, &operands.key, &operands.value}) {
      for (const E4m3Operand::Block& block : operand->blocks()) items.push_back({operand, block});
    }
    const std::int64_t group = call.query.shape()[2] / call.key.shape()[2];
    parallel_items(call.threads, static_cast<std::int64_t>(items.size()), [&](std::int64_t i, int worker) {
      const auto& [operand, block] = items[static_cast<std::size_t>(i)];
      const AttentionSequence& s = call.sequences[static_cast<std::size_t>(block.sequence)];
      const bool is_query = operand == &operands.query;
      const std::int64_t key_head = is_query ? block.head / group : block.head;
      FlashHeads heads = flash_heads(call, s, key_head);
      heads.quantization.signs = signs_;
      heads.quantization.key_mean = means.of(s, key_head);
      const HeadRows rows = is_query                   ? query_rows(heads, block.head % group)
                            : operand == &operands.key ? key_rows(heads)
                                                       : value_rows(heads);
      quantize_e4m3_rows(rows, block.first, block.count, operand->rows_of(block), operand->scales_of(block),
                         reinterpret_cast<float*>(scratch_of(worker)));
    });
  }

  static FlashHeads heads_of(const AttentionCall& call, const FlashChunk& chunk, const Operands& operands) {
    FlashHeads heads = flash_heads(call, *chunk.sequence, chunk.key_head);
    const std::int64_t sequence = chunk.sequence - call.sequences.data();
    const std::int64_t head = chunk.key_head * heads.group;
    heads.dtype = DType::f8_e4m3;
    heads.query = operands.query.rows(sequence, head);
    heads.key = operands.key.rows(sequence, chunk.key_head);
    heads.value = operands.value.rows(sequence, chunk.key_head);
    heads.query_stride = heads.key_stride = heads.head_dim;
    heads.value_stride = heads.value_dim;
    heads.query_head_stride = heads.queries * heads.head_dim;
    heads.quantization.query_scales = operands.query.scales(sequence, head);
    heads.quantization.key_scales = operands.key.scales(sequence, chunk.key_head);
    heads.quantization.value_scales = operands.value.scales(sequence, chunk.key_head);
    heads.quantization.query_scales_head_stride = operands.query.scales_of_head(sequence);
    return heads;
  }

  FlashImplementation implementation_;
  FlashTiling tiling_;
  bool exact_chunk_;
  const float* signs_;
  std::size_t mean_bytes_;
  std::size_t operand_bytes_;
  std::size_t bytes_per_thread_;
  int threads_;
};

/// The kernels differ in what multiplies and in when that is there.
class FlashFp8Kernel : public AttentionKernel {
 public:
  bool takes(KvCacheDtype dtype) const final { return dtype == KvCacheDtype::fp8; }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& tiling,
                                        int threads) const final {
    return std::make_unique<Fp8Runner>(implementation(), problem, tiling, threads);
  }

 protected:
  virtual FlashImplementation implementation() const = 0;
};

class FlashFp8SimdKernel final : public FlashFp8Kernel {
 public:
  std::string_view name() const override { return "flash-fp8"; }
  std::string_view description() const override {
    return "e4m3 operands, multiplied in float32 SIMD; any mask, causal, LSE, varlen, head dims to 512";
  }
  AttentionRefusal supports(const AttentionProblem& problem) const override {
    return refuse_wide_heads(problem, kWidestQuantizedHead);
  }

 protected:
  FlashImplementation implementation() const override { return flash_simd(); }
};

/// Products of bfloat16, which holds e4m3 exactly.
class FlashFp8NativeKernel : public FlashFp8Kernel {
 public:
  AttentionRefusal supports(const AttentionProblem& problem) const final {
    // Wider queries and keys have several scales a row, which sums in registers cannot tell apart.
    if (problem.head_dim > kE4m3Columns) return fmt::format("takes query head dims up to {}", kE4m3Columns);
    return refuse_wide_heads(problem, kWidestQuantizedHead);
  }
};

class FlashFp8DotKernel final : public FlashFp8NativeKernel {
 public:
  std::string_view name() const override { return "flash-fp8-bf16"; }
  std::string_view description() const override {
    return "e4m3 operands, multiplied by bfloat16 dot products of AVX-512; any mask, causal, LSE, varlen";
  }
  AttentionRefusal unavailable() const override {
    if (!has_native_bf16()) return "needs a CPU level of avx512_bf16";
    return std::nullopt;
  }

 protected:
  FlashImplementation implementation() const override {
    return {kFlashBf16BlockQueries, {kE4m3Keys, 16}, flash_bf16_scratch_bytes, flash_bf16};
  }
};

class FlashFp8AmxKernel final : public FlashFp8NativeKernel {
 public:
  std::string_view name() const override { return "flash-fp8-amx"; }
  std::string_view description() const override {
    return "e4m3 operands, multiplied by bfloat16 AMX tiles; any mask, causal, LSE, varlen";
  }
  AttentionRefusal unavailable() const override { return refuse_without_amx(); }

 protected:
  FlashImplementation implementation() const override {
    return {kFlashBf16BlockQueries, {kE4m3Keys, 32}, flash_bf16_scratch_bytes, flash_amx};
  }
};

}  // namespace

std::vector<std::shared_ptr<const AttentionKernel>> flash_fp8_attention_kernels() {
  return {std::make_shared<FlashFp8AmxKernel>(), std::make_shared<FlashFp8DotKernel>(),
          std::make_shared<FlashFp8SimdKernel>()};
}

}  // namespace rondo::cpu
