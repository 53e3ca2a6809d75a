#include "backends/cpu/onednn/weights.h"

#include "backends/cpu/onednn/primitives.h"
#include "core/cpu_level.h"

namespace rondo::cpu {

namespace {

/// A type of our own, so that the shared library does not show std::any's code for oneDNN's.
struct OwnLayout {
  dnnl::memory::desc value;
};

}  // namespace

const dnnl::engine& onednn_engine() {
  static const dnnl::engine engine = [] {
    cpu_level();  // caps oneDNN before its first primitive
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

dnnl::stream& onednn_stream() {
  thread_local dnnl::stream stream(onednn_engine());
  return stream;
}

dnnl::memory::data_type onednn_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return dnnl::memory::data_type::f32;
    case DType::bf16: return dnnl::memory::data_type::bf16;
    case DType::u8: return dnnl::memory::data_type::u8;
    case DType::s8: return dnnl::memory::data_type::s8;
    case DType::s32: return dnnl::memory::data_type::s32;
    default: throw Unsupported(fmt::format("onednn: {} is not used here", dtype_name(dtype)));
  }
}

std::string layout_name(const dnnl::memory::desc& layout) {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{} {}", version->major, version->minor, version->patch, describe_layout(layout));
}

std::shared_ptr<const PackedWeight> packed_weight(WeightStore& store, const std::string& name,
                                                  const dnnl::memory::desc& layout, const dnnl::memory::dims& dims,
                                                  const dnnl::memory::dims& strides) {
  const auto bytes = static_cast<std::int64_t>(layout.get_size());
  const PackedForm form{layout_name(layout), {{{bytes}, DType::u8, {}}}, OwnLayout{layout}};
  return store.packed(name, form, [&](const Tensor& stored) -> std::vector<Tensor> {
    const bool direct = stored.dtype() == DType::f32 || stored.dtype() == DType::bf16;
    const Tensor source = direct ? stored : stored.to_float32();
    const dnnl::memory plain({dims, onednn_dtype(source.dtype()), strides}, onednn_engine(),
                             const_cast<void*>(source.data()));
    Tensor packed = Tensor::empty({bytes}, DType::u8);
    dnnl::memory target(layout, onednn_engine(), packed.data());
    dnnl::reorder(plain, target).execute(onednn_stream(), const_cast<dnnl::memory&>(plain), target);
    onednn_stream().wait();
    return {packed};
  });
}

std::optional<dnnl::memory::desc> packed_layout(WeightStore& store, const std::string& name) {
  const auto weight = store.find_packed(name);  // another kernel may have packed it otherwise
  const auto* layout = weight == nullptr ? nullptr : std::any_cast<OwnLayout>(&weight->form.layout);
  return layout == nullptr ? std::nullopt : std::optional(layout->value);
}

}  // namespace rondo::cpu
