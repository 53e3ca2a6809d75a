// What the oneDNN kernels share: the engine, dtypes, packed weights.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
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

/// Weights reordered into the layout that a primitive asked for.
class OnednnWeight final : public PackedWeight {
 public:
  OnednnWeight(const dnnl::memory::desc& layout, Tensor data) : layout_(layout), data_(std::move(data)) {}
  std::size_t bytes() const override { return data_.bytes(); }
  const dnnl::memory::desc& layout() const { return layout_; }
  void* data() const { return const_cast<void*>(data_.data()); }

 private:
  dnnl::memory::desc layout_;
  Tensor data_;
};

/// The weight in exactly `layout`, packed from its plain form: `plain` describes the stored elements in their order.
std::shared_ptr<const OnednnWeight> packed_weight(WeightStore& store, const std::string& name,
                                                  const dnnl::memory::desc& layout, const dnnl::memory::dims& dims,
                                                  const dnnl::memory::dims& strides);

/// A form that an earlier plan packed for the same weight, or null.
std::shared_ptr<const OnednnWeight> find_packed_weight(WeightStore& store, const std::string& name);

}  // namespace rondo::cpu
