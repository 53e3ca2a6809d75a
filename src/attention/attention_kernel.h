// What every attention kernel implements, on whatever device.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/attention_problem.h"
#include "rondo/tensor.h"

namespace rondo {

/// One sequence: rows of query and output, and of key and value, in batch row `batch`.
struct AttentionSequence {
  std::int64_t batch;
  std::int64_t query_begin;
  std::int64_t queries;
  std::int64_t key_begin;
  std::int64_t keys;
};

class DeviceStream;
class ExecutionDevice;

/// The operands of one run. All views are BSND with a dense last axis.
struct AttentionCall {
  Tensor query;   // [B, Sq, N, D], or packed sequences as [1, T, N, D]
  Tensor key;     // [B, Sk, Nk, D]
  Tensor value;   // [B, Sk, Nk, Dv]
  Tensor mask;    // undefined, or boolean (true = keep) or floating [B or 1, N or 1, Sq or 1, Sk]
  Tensor output;  // [B, Sq, N, Dv]
  Tensor lse;     // undefined, or float32 [B, N, Sq], dense
  std::span<const AttentionSequence> sequences;
  float scale;
  bool causal;
  int threads;
  /// Where the work runs and what it is given to; null on the CPU, where run() returns when it is done.
  const ExecutionDevice* device = nullptr;
  DeviceStream* stream = nullptr;
};

/// What a kernel leaves to the tuner; 0 is the kernel's own choice.
struct AttentionTiling {
  /// Keys that are packed and scored together.
  std::int64_t key_block = 0;
  /// The most blocks of queries that share them, which is also how finely work is split over threads.
  std::int64_t chunk = 0;
  /// Into which layout operands are brought first; nothing: they stay as they lie.
  std::optional<AttentionLayout> layout = std::nullopt;
  bool operator==(const AttentionTiling&) const = default;
};

/// " key_block=192 chunk=2 layout=bnsd"; empty for the kernel's own choice.
std::string to_string(const AttentionTiling& tiling);

/// "bsnd", "bnsd", "bsh"
std::string_view attention_layout_name(AttentionLayout layout);

/// A kernel made ready for one problem and number of threads. Immutable: several sessions share it. On a device what
/// it needs beside its scratch comes from the call's stream and device.
class AttentionRunner {
 public:
  virtual ~AttentionRunner() = default;
  virtual std::size_t scratch_bytes() const = 0;
  /// `scratch` is 64-byte aligned, of scratch_bytes().
  virtual void run(const AttentionCall& call, std::span<std::byte> scratch) const = 0;
};

/// Why a kernel cannot take a problem; empty when it can.
using AttentionRefusal = std::optional<std::string>;

class AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  virtual std::string_view name() const = 0;
  /// One line for `rondo backends`: dtypes, masks, what it is good at.
  virtual std::string_view description() const = 0;
  /// Where its operands lie.
  virtual DeviceKind device() const { return DeviceKind::cpu; }
  /// True when softmax weights are rounded to the operands' dtype before they meet the values.
  virtual bool rounds_weights() const { return false; }
  /// True when operands in e4m3 have one scale each, in place of one a block (attention/quantized_attention.h).
  virtual bool scales_whole_tensors() const { return false; }
  /// Whether it multiplies operands in this form.
  virtual bool takes(KvCacheDtype dtype) const { return dtype == KvCacheDtype::automatic; }
  /// Why it cannot run in this process at all, whatever the problem.
  virtual AttentionRefusal unavailable() const { return std::nullopt; }
  virtual AttentionRefusal supports(const AttentionProblem& problem) const = 0;
  /// What make() takes for this problem, the kernel's own choice first.
  virtual std::vector<AttentionTiling> tilings(const AttentionProblem& /*problem*/) const { return {{}}; }
  virtual std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& tiling,
                                                int threads) const = 0;
};

}  // namespace rondo
