#include "attention/attention_quantization.h"

#include <fmt/format.h>

#include <array>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array<std::string_view, 3> kDtypes{"auto", "int8", "fp8"};

}  // namespace

AttentionQuantization attention_quantization(KvCacheDtype dtype, bool rotate, std::optional<bool> smooth_k) {
  if (dtype == KvCacheDtype::automatic) return {};
  return {dtype, rotate, smooth_k.value_or(true)};
}

std::string to_string(const AttentionQuantization& quantization) {
  if (!quantization.active()) return "";
  return fmt::format(" kv_cache={}{}{}", kv_cache_dtype_name(quantization.dtype),
                     quantization.rotates ? " rotation=1" : "", quantization.smooths ? " smooth_k=1" : "");
}

std::string_view kv_cache_dtype_name(KvCacheDtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)]; }

KvCacheDtype parse_kv_cache_dtype(std::string_view text, std::string_view source) {
  for (std::size_t i = 0; i < kDtypes.size(); ++i) {
    if (text == kDtypes[i]) return static_cast<KvCacheDtype>(i);
  }
  throw InvalidArgument(
      fmt::format("{}: '{}' is given; allowed are {}", source, printable(text), fmt::join(kDtypes, ", ")));
}

}  // namespace rondo
