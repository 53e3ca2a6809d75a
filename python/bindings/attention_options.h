// How attention's settings come from Python.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "rondo/attention.h"
#include "rondo/error.h"

namespace rondo::python {

inline AttentionLayout parse_layout(const std::string& name) {
  if (name == "BSND") return AttentionLayout::bsnd;
  if (name == "BNSD") return AttentionLayout::bnsd;
  if (name == "BSH") return AttentionLayout::bsh;
  throw InvalidArgument("attention: layout '" + name + "' is given; allowed are BSND, BNSD and BSH");
}

/// kv_cache_dtype, rotate, smooth_k
using Quantization = std::tuple<std::string, bool, std::optional<bool>>;

inline KvCacheDtype parse_kv_cache_dtype(const std::string& name) {
  if (name == "auto") return KvCacheDtype::automatic;
  if (name == "int8") return KvCacheDtype::int8;
  if (name == "fp8") return KvCacheDtype::fp8;
  throw InvalidArgument("attention: kv_cache_dtype '" + name + "' is given; allowed are auto, int8 and fp8");
}

template <class Options>
void set_quantization(Options& options, const Quantization& quantization) {
  options.kv_cache_dtype = parse_kv_cache_dtype(std::get<0>(quantization));
  options.rotate = std::get<1>(quantization);
  options.smooth_k = std::get<2>(quantization);
}

}  // namespace rondo::python
