// What is known of an attention call before its data.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "attention/attention_quantization.h"
#include "rondo/attention.h"
#include "rondo/dtype.h"

namespace rondo {

enum class MaskKind : std::uint8_t { none, boolean, additive };

/// Everything of a call that may change which kernel is the fastest. Operands are in BSND from here on: a layout is a
/// matter of strides.
struct AttentionProblem {
  /// Where the operands lie.
  Device device = {};
  std::int64_t batch = 1;  // sequences
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t queries = 1;  // of the longest sequence
  std::int64_t keys = 1;     // of the longest sequence
  std::int64_t head_dim = 64;
  std::int64_t value_dim = 64;
  DType dtype = DType::f32;
  MaskKind mask = MaskKind::none;
  /// On which axes the mask is not the same for all.
  bool mask_batch = false;
  bool mask_heads = false;
  bool mask_queries = true;
  /// In which order the operands lie in memory: bsnd (or bsh) or bnsd.
  AttentionLayout layout = AttentionLayout::bsnd;
  /// False: 1 / sqrt(head dim).
  bool own_scale = false;
  bool causal = false;
  bool lse = false;
  bool varlen = false;
  AttentionQuantization quantization;

  auto operator<=>(const AttentionProblem&) const =
      default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 misreads it
};

/// What operands (BSND views; `mask` may be undefined, else four axes) say of a problem.
AttentionProblem describe_operands(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask);

/// "q=1x24x4608x128 kv=4608 dtype=bfloat16 mask=none", with kv_heads, v_dim, mask_axes (letters of bnq, "q" by
/// default), layout, scale=own, causal, lse, varlen, kv_cache, rotation, smooth_k and device where they are not the
/// default.
std::string to_string(const AttentionProblem& problem);

/// The inverse; q (batch x heads x queries x head dim) is required, every other key has a default. Throws
/// InvalidArgument, naming the bad word.
AttentionProblem parse_attention_problem(std::string_view text);

std::string_view mask_kind_name(MaskKind kind);

}  // namespace rondo
