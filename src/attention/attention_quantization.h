// How attention's operands are quantised while it runs.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>

#include "rondo/attention.h"

namespace rondo {

struct AttentionQuantization {
  KvCacheDtype dtype = KvCacheDtype::automatic;
  /// Queries and keys are turned by random Hadamard matrices first.
  bool rotates = false;
  /// The mean of all keys of a sequence is taken from each first.
  bool smooths = false;

  bool active() const { return dtype != KvCacheDtype::automatic; }
  auto operator<=>(const AttentionQuantization&) const =
      default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 misreads it
};

/// As callers' options say it; keys are smoothed unless `smooth_k` says otherwise. Without a dtype the rest says
/// nothing.
AttentionQuantization attention_quantization(KvCacheDtype dtype, bool rotate, std::optional<bool> smooth_k);

/// " kv_cache=int8 rotation=1 smooth_k=1"; empty for operands as they are.
std::string to_string(const AttentionQuantization& quantization);

/// "auto", "int8", "fp8".
std::string_view kv_cache_dtype_name(KvCacheDtype dtype);
/// The inverse. Throws InvalidArgument, naming `source`.
KvCacheDtype parse_kv_cache_dtype(std::string_view text, std::string_view source);

}  // namespace rondo
