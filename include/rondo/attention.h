// Attention on tensors, without a graph: softmax(scale * Q K^T + mask) V (Vaswani et al., 2017), by the fastest kernel
// that this machine has for the problem.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rondo/export.h"
#include "rondo/tensor.h"

namespace rondo RONDO_PUBLIC {

/// Order of the axes: B batch, S tokens, N heads, D head dim; BSH has N and D as one axis.
enum class AttentionLayout : std::uint8_t { bsnd, bnsd, bsh };

/// How a kernel is chosen where none is named. runtime: by what has been measured (see TuneMode), else the first in the
/// list that can; static_order: the first that can; manual: the one that is named, which is then required.
enum class AttentionOptMode : std::uint8_t { runtime, static_order, manual };

/// off: results that were measured are not used; cached: they are, and nothing is measured; on: what has not been
/// measured is, before its first call.
enum class TuneMode : std::uint8_t { off, cached, on };

/// In which form attention's operands are multiplied: as they are, or quantised to 8 bits while it runs. int8: queries
/// and keys with a scale a row, values with a scale a column for every 128 keys, weights in 8 bits as well; below
/// AVX-512 VNNI queries and weights have 7 bits. fp8: e4m3, queries with a scale for 128 rows x 128 columns, keys and
/// values for 256 x 128, weights with e4m3's four significant bits.
enum class KvCacheDtype : std::uint8_t { automatic, int8, fp8 };

struct AttentionOptions {
  /// What scores are multiplied by; 1 / sqrt(head dim) when not given.
  std::optional<double> scale;
  /// Query i sees keys up to i + keys - queries: both ends aligned at the bottom right.
  bool causal = false;
  AttentionLayout layout = AttentionLayout::bsnd;
  /// Heads of the query, needed with BSH only. The key's heads follow from its last axis.
  std::int64_t num_heads = 0;
  bool return_lse = false;
  /// A kernel's name: it must be able to, or the call is refused. Empty: RONDO_ATTENTION_BACKEND, else the best.
  std::string backend;
  KvCacheDtype kv_cache_dtype = KvCacheDtype::automatic;
  /// Whether queries and keys are turned by random Hadamard matrices before they are quantised, so that outliers
  /// spread.
  bool rotate = true;
  /// Whether the mean of a sequence's keys is taken from each before they are quantised, so that what all have in
  /// common costs no precision. Output and LSE are those of the keys as they are. Unset: where a kernel can.
  std::optional<bool> smooth_k;
  AttentionOptMode opt_mode = AttentionOptMode::runtime;
  /// Nothing: as RONDO_TUNE says, cached without it.
  std::optional<TuneMode> tune;
  /// 0: RONDO_THREADS, else OMP_NUM_THREADS, else physical cores. At most those that OpenMP gives.
  int threads = 0;
};

struct AttentionResult {
  Tensor output;
  /// float32: the natural logarithm of the sum of exp(score), -infinity where nothing is visible. Undefined unless
  /// asked for.
  Tensor lse;
};

/// query [B, Sq, N, D], key [B, Sk, Nk, D], value [B, Sk, Nk, Dv] in the given layout; float32, bfloat16 or float16,
/// all alike; N is a multiple of Nk (grouped and multi-query attention); any strides, without a copy where the last
/// axis is dense. `mask`, when defined: [B, N, Sq, Sk] or what broadcasts to it (each axis may be 1); boolean (true =
/// keep) or floating, added to the scaled scores. -> output [B, Sq, N, Dv] in the same layout and dtype; lse [B, N,
/// Sq]. A query that sees no key gives 0 and -infinity. Throws InvalidArgument for operands that do not fit each other,
/// Unsupported when no kernel (or not the forced one) can.
AttentionResult attention_forward(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask = {},
                                  const AttentionOptions& options = {});

struct VarlenAttentionOptions {
  std::optional<double> scale;
  bool causal = false;
  bool return_lse = false;
  std::string backend;
  KvCacheDtype kv_cache_dtype = KvCacheDtype::automatic;
  /// Whether queries and keys are turned by random Hadamard matrices before they are quantised, so that outliers
  /// spread.
  bool rotate = true;
  /// Whether the mean of a sequence's keys is taken from each before they are quantised, so that what all have in
  /// common costs no precision. Output and LSE are those of the keys as they are. Unset: where a kernel can.
  std::optional<bool> smooth_k;
  AttentionOptMode opt_mode = AttentionOptMode::runtime;
  std::optional<TuneMode> tune;
  int threads = 0;
};

/// Sequences packed one behind the other: query [Tq, N, D], key [Tk, Nk, D], value [Tk, Nk, Dv]. Sequence i has queries
/// cu_seqlens_q[i] to cu_seqlens_q[i + 1] and keys likewise; both lists start at 0, do not fall, and end at Tq and Tk.
/// A sequence may be empty. -> output [Tq, N, Dv]; lse [N, Tq]. Throws as attention_forward.
AttentionResult attention_forward_varlen(const Tensor& query, const Tensor& key, const Tensor& value,
                                         std::span<const std::int32_t> cu_seqlens_q,
                                         std::span<const std::int32_t> cu_seqlens_k,
                                         const VarlenAttentionOptions& options = {});

/// Attention over the union of two disjoint sets of keys, from attention over each: out [B, S, N, D] (one floating
/// dtype) and lse [B, N, S] float32. Associative; -infinity stands for "no key". Throws InvalidArgument.
AttentionResult merge_attention_states(const AttentionResult& a, const AttentionResult& b);

/// What one kernel says to a call.
struct AttentionBackendAnswer {
  std::string name;
  /// Why it cannot; empty when it can.
  std::optional<std::string> refusal;
};

/// Every kernel's answer to the same call, best first. Throws InvalidArgument as attention_forward does.
std::vector<AttentionBackendAnswer> attention_backends(const Tensor& query, const Tensor& key, const Tensor& value,
                                                       const Tensor& mask = {}, const AttentionOptions& options = {});

struct SelectedAttentionBackend {
  std::string name;
  /// What decided: the call, an environment variable, a measurement, or the order of the list.
  std::string reason;
};

/// The kernel that the same call would run on. Throws as attention_forward does.
SelectedAttentionBackend selected_attention_backend(const Tensor& query, const Tensor& key, const Tensor& value,
                                                    const Tensor& mask = {}, const AttentionOptions& options = {});

}  // namespace RONDO_PUBLIC
