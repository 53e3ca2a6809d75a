// The attention kernels "flash", "flash-bf16" and "flash-amx".
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/flash_attention.h"
#include "backends/cpu/flash_bf16.h"
#include "backends/cpu/flash_chunks.h"
#include "core/cpu_level.h"
#include "core/threads.h"

namespace rondo::cpu {
namespace {

/// The kernel's own choice, then every other of these key blocks with these chunks.
std::vector<AttentionTiling> every_tiling(const FlashTiling& usual, std::initializer_list<std::int64_t> key_blocks) {
  std::vector<AttentionTiling> tilings{{}};
  for (const std::int64_t key_block : key_blocks) {
    for (const std::int64_t chunk : {0, 4, 16, 32}) {
      const bool is_usual = key_block == 0 && chunk == 0;
      if (!is_usual && chunk != usual.chunk && key_block != usual.key_block) tilings.push_back({key_block, chunk});
    }
  }
  return tilings;
}

class FlashRunner final : public AttentionRunner {
 public:
  FlashRunner(const FlashImplementation& implementation, const AttentionProblem& problem, const AttentionTiling& tiling,
              int threads)
      : implementation_(implementation),
        exact_chunk_(tiling.chunk != 0),
        tiling_(implementation.tiling(tiling)),
        bytes_per_thread_(implementation.scratch_bytes(tiling_, problem.head_dim, problem.value_dim)),
        threads_(threads) {}

  std::size_t scratch_bytes() const override { return bytes_per_thread_ * static_cast<std::size_t>(threads_); }

  void run(const AttentionCall& call, std::span<std::byte> scratch) const override {
    const std::vector<FlashChunk> chunks = cut_chunks(call, implementation_.block_queries, tiling_.chunk, exact_chunk_);
    parallel_items(call.threads, static_cast<std::int64_t>(chunks.size()), [&](std::int64_t item, int worker) {
      const FlashChunk& chunk = chunks[static_cast<std::size_t>(item)];
      implementation_.run(flash_heads(call, *chunk.sequence, chunk.key_head), tiling_, chunk.first, chunk.last,
                          scratch.data() + static_cast<std::size_t>(worker) * bytes_per_thread_);
    });
  }

 private:
  FlashImplementation implementation_;
  bool exact_chunk_;
  FlashTiling tiling_;
  std::size_t bytes_per_thread_;
  int threads_;
};

class FlashKernel final : public AttentionKernel {
 public:
  std::string_view name() const override { return "flash"; }
  std::string_view description() const override {
    return "float32 SIMD; float32, bfloat16, float16; any mask, causal, LSE, varlen, head dims to 4096";
  }
  AttentionRefusal supports(const AttentionProblem& problem) const override {
    return refuse_wide_heads(problem, 4096);  // scratch grows with the head dim
  }
  std::vector<AttentionTiling> tilings(const AttentionProblem& /*problem*/) const override {
    return every_tiling(flash_simd().usual, {0, 96, 256});
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& tiling,
                                        int threads) const override {
    return std::make_unique<FlashRunner>(flash_simd(), problem, tiling, threads);
  }
};

/// The kernels with native bfloat16 products differ in what multiplies and in when that is there.
class FlashBf16Kernel : public AttentionKernel {
 public:
  bool rounds_weights() const final { return true; }
  AttentionRefusal supports(const AttentionProblem& problem) const final {
    if (problem.dtype != DType::bf16) return "takes bfloat16 only";
    return refuse_wide_heads(problem, 512);
  }
  std::vector<AttentionTiling> tilings(const AttentionProblem& /*problem*/) const final {
    return every_tiling(usual_, {0, 256, 1024});
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& tiling,
                                        int threads) const final {
    const FlashImplementation implementation{kFlashBf16BlockQueries, usual_, flash_bf16_scratch_bytes, run_};
    return std::make_unique<FlashRunner>(implementation, problem, tiling, threads);
  }

 protected:
  FlashBf16Kernel(const FlashTiling& usual, decltype(FlashImplementation::run) run) : usual_(usual), run_(run) {}

 private:
  FlashTiling usual_;
  decltype(FlashImplementation::run) run_;
};

class FlashDotKernel final : public FlashBf16Kernel {
 public:
  FlashDotKernel() : FlashBf16Kernel({512, 16}, flash_bf16) {}
  std::string_view name() const override { return "flash-bf16"; }
  std::string_view description() const override {
    return "bfloat16 dot products of AVX-512; any mask, causal, LSE, varlen, head dims to 512";
  }
  AttentionRefusal unavailable() const override {
    if (!has_native_bf16()) return "needs a CPU level of avx512_bf16";
    return std::nullopt;
  }
};

class FlashAmxKernel final : public FlashBf16Kernel {
 public:
  // Tiles are so fast that packing weighs: twice the blocks for what is packed once gained 5 to 15 %.
  FlashAmxKernel() : FlashBf16Kernel({512, 32}, flash_amx) {}
  std::string_view name() const override { return "flash-amx"; }
  std::string_view description() const override {
    return "bfloat16 on AMX tiles; any mask, causal, LSE, varlen, head dims to 512";
  }
  AttentionRefusal unavailable() const override { return refuse_without_amx(); }
};

}  // namespace

FlashImplementation flash_simd() { return {flash_block_queries(), {192, 16}, flash_scratch_bytes, flash_attention}; }

AttentionRefusal refuse_without_amx() {
  if (cpu_level() < CpuLevel::avx512_amx) return "needs a CPU level of avx512_amx";
  if (!has_amx()) return "the operating system does not let this process use AMX tiles";
  return std::nullopt;
}

bool has_amx() {
  static const bool granted = cpu_level() >= CpuLevel::avx512_amx && request_amx();
  return granted;
}

std::shared_ptr<const AttentionKernel> flash_attention_kernel() { return std::make_shared<FlashKernel>(); }
std::shared_ptr<const AttentionKernel> flash_bf16_attention_kernel() { return std::make_shared<FlashDotKernel>(); }
std::shared_ptr<const AttentionKernel> flash_amx_attention_kernel() { return std::make_shared<FlashAmxKernel>(); }

}  // namespace rondo::cpu
