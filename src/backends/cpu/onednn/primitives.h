// Everything in which oneDNN 2 (Debian 12) and oneDNN 3 (Debian 13, Ubuntu 24.04) differ lies in this one file.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <oneapi/dnnl/dnnl.hpp>
#include <span>
#include <string>

namespace rondo::cpu {

inline dnnl::matmul::primitive_desc matmul_primitive(const dnnl::engine& engine, const dnnl::memory::desc& source,
                                                     const dnnl::memory::desc& weights, const dnnl::memory::desc& bias,
                                                     const dnnl::memory::desc& target,
                                                     const dnnl::primitive_attr& attr) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, source, weights, bias, target, attr};
#else
  return {
      bias.is_zero() ? dnnl::matmul::desc(source, weights, target) : dnnl::matmul::desc(source, weights, bias, target),
      attr, engine};
#endif
}

/// Everything that tells a blocked layout from others.
inline std::string describe_layout(const dnnl::memory::desc& layout) {
#if DNNL_VERSION_MAJOR >= 3
  const auto extents = layout.get_padded_dims();
  const auto strides = layout.get_strides();
  const auto blocks = layout.get_inner_blks();
  const auto blocked = layout.get_inner_idxs();
  const auto dtype = static_cast<int>(layout.get_data_type());
  const auto kind = static_cast<int>(layout.get_format_kind());
#else
  const auto& data = layout.data;
  const auto& blocking = data.format_desc.blocking;
  const std::span extents(data.padded_dims, static_cast<std::size_t>(data.ndims));
  const std::span strides(blocking.strides, static_cast<std::size_t>(data.ndims));
  const std::span blocks(blocking.inner_blks, static_cast<std::size_t>(blocking.inner_nblks));
  const std::span blocked(blocking.inner_idxs, static_cast<std::size_t>(blocking.inner_nblks));
  const auto dtype = static_cast<int>(data.data_type);
  const auto kind = static_cast<int>(data.format_kind);
#endif
  return fmt::format("extents {} strides {} blocks {} of {} type {} kind {} bytes {}", fmt::join(extents, ","),
                     fmt::join(strides, ","), fmt::join(blocks, ","), fmt::join(blocked, ","), dtype, kind,
                     layout.get_size());
}

/// Appends f(x) with parameter alpha to what a primitive does after its product.
inline void append_eltwise(dnnl::post_ops& post_ops, dnnl::algorithm f, float alpha) {
#if DNNL_VERSION_MAJOR >= 3
  post_ops.append_eltwise(f, alpha, 0.0F);
#else
  post_ops.append_eltwise(1.0F, f, alpha, 0.0F);
#endif
}

inline dnnl::convolution_forward::primitive_desc convolution_primitive(
    const dnnl::engine& engine, const dnnl::memory::desc& source, const dnnl::memory::desc& weights,
    const dnnl::memory::desc& bias, const dnnl::memory::desc& target, const dnnl::memory::dims& strides,
    const dnnl::memory::dims& padding_begin, const dnnl::memory::dims& padding_end, const dnnl::primitive_attr& attr) {
  constexpr auto kKind = dnnl::prop_kind::forward_inference;
  constexpr auto kAlgorithm = dnnl::algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
  return {engine, kKind, kAlgorithm, source, weights, bias, target, strides, padding_begin, padding_end, attr};
#else
  if (bias.is_zero()) {
    return {dnnl::convolution_forward::desc(kKind, kAlgorithm, source, weights, target, strides, padding_begin,
                                            padding_end),
            attr, engine};
  }
  return {dnnl::convolution_forward::desc(kKind, kAlgorithm, source, weights, bias, target, strides, padding_begin,
                                          padding_end),
          attr, engine};
#endif
}

}  // namespace rondo::cpu
