// What the oneDNN kernels share: the engine, dtypes, packed weights.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "backends/weight_store.h"
#include "rondo/error.h"

namespace rondo::cpu {

const dnnl::engine& onednn_engine();
/// A stream of the calling thread.
dnnl::stream& onednn_stream();

dnnl::memory::data_type onednn_dtype(DType dtype);

/// Throws Error("<operator>: ...") in our words for the exceptions of oneDNN that `body` lets out.
template <typename Body>
auto with_onednn_errors(std::string_view op, const Body& body) {
  try {
    return body();
  } catch (const dnnl::error& error) {
    throw Error(fmt::format("{}: oneDNN failed with status {}", op, static_cast<int>(error.status)));
  }
}

/// A layout as text, with the version of the library that chose it.
std::string layout_name(const dnnl::memory::desc& layout);

/// The weight in exactly `layout`, as its one part: packed from the stored elements, which have these extents and
/// strides.
std::shared_ptr<const PackedWeight> packed_weight(WeightStore& store, const std::string& name,
                                                  const dnnl::memory::desc& layout, const dnnl::memory::dims& dims,
                                                  const dnnl::memory::dims& strides);

/// The layout in which packed_weight() packed the same weight for an earlier plan.
std::optional<dnnl::memory::desc> packed_layout(WeightStore& store, const std::string& name);

}  // namespace rondo::cpu
