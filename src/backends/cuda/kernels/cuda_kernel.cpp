#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {
namespace {

/// The extents and strides of axes [0, count) into the last places of an array of that many.
template <std::size_t places>
void fill_axes(const Tensor& tensor, std::size_t count, std::array<std::int64_t, places>& extent,
               std::array<std::int64_t, places>& stride) {
  for (std::size_t axis = 0; axis < count; ++axis) {
    extent[places - count + axis] = tensor.shape()[axis];
    stride[places - count + axis] = tensor.strides()[axis];
  }
}

}  // namespace

Number number_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return Number::f32;
    case DType::f16: return Number::f16;
    case DType::bf16: return Number::bf16;
    case DType::s8: return Number::s8;
    case DType::u8:
    case DType::f8_e4m3: return Number::u8;  // moved, never computed with
    case DType::s32: return Number::s32;
    case DType::s64: return Number::s64;
    case DType::boolean: return Number::boolean;
  }
  return Number::f32;
}

RowView rows_of(const Tensor& tensor) {
  RowView view;
  view.data = const_cast<void*>(tensor.data());
  view.number = number_of(tensor.dtype());
  view.width = tensor.shape().back();
  fill_axes(tensor, tensor.shape().rank() - 1, view.extent, view.stride);
  view.find_spacing();
  return view;
}

View view_of(const Tensor& tensor) {
  View view;
  view.data = const_cast<void*>(tensor.data());
  view.number = number_of(tensor.dtype());
  fill_axes(tensor, tensor.shape().rank(), view.extent, view.stride);
  return view;
}

View repeated_view(const Tensor& tensor, const Shape& shape) {
  View view = view_of(tensor);
  const std::size_t rank = shape.rank();
  for (std::size_t axis = 0; axis < rank; ++axis) {
    const std::size_t place = View::kAxes - rank + axis;
    const bool repeats = view.extent[place] == 1;
    view.extent[place] = shape[axis];
    if (repeats) view.stride[place] = 0;
  }
  return view;
}

Vector vector_of(const Tensor& tensor) {
  return tensor.defined() ? Vector{tensor.data(), number_of(tensor.dtype())} : Vector{};
}

Modulation modulation_of(const Tensor& tensor) {
  const Shape& s = tensor.shape();
  const Shape& strides = tensor.strides();
  const bool per_token = s.rank() == 3 && s[1] != 1;
  return {tensor.data(), number_of(tensor.dtype()), strides[0], per_token ? strides[1] : 0};
}

bool takes_whole_loads(const Tensor& x) {
  constexpr std::int64_t kElements = 8;
  bool fits = reinterpret_cast<std::uintptr_t>(x.data()) % 16 == 0;
  for (std::size_t axis = 0; axis + 1 < x.shape().rank(); ++axis)
    fits = fits && (x.shape()[axis] == 1 || x.strides()[axis] % kElements == 0);
  return fits;
}

Tensor with_whole_loads(const CudaRun& run, const Tensor& x) {
  if (takes_whole_loads(x)) return x;
  Tensor whole = run.temporary(x.shape(), x.dtype());
  copy(view_of(x), view_of(whole), run.handle());
  return whole;
}

Tensor dense(const CudaRun& run, const Tensor& x, DType dtype) {
  if (x.is_dense() && x.dtype() == dtype) return x;
  Tensor whole = run.temporary(x.shape(), dtype);
  copy(view_of(x), view_of(whole), run.handle());
  return whole;
}

Activation activation_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::gelu_tanh: return Activation::gelu_tanh;
    case ActivationKind::gelu_erf: return Activation::gelu_erf;
    case ActivationKind::quick_gelu: return Activation::quick_gelu;
    case ActivationKind::silu: return Activation::silu;
    case ActivationKind::mish: return Activation::mish;
    case ActivationKind::relu: return Activation::relu;
  }
  return Activation::relu;
}

Refusal refuse_unless_rows(const KernelRequest& request, std::size_t data_inputs) {
  for (std::size_t i = 0; i < data_inputs; ++i) {
    const Tensor& input = request.inputs[i].prototype;
    const DType dtype = input.dtype();
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
      return "takes float32, bfloat16 and float16 only";
    if (dtype != request.inputs[0].prototype.dtype()) return "takes inputs of one dtype only";
    const std::size_t rank = input.shape().rank();
    if (rank == 0 || rank > RowView::kAxes + 1) return "takes up to five axes only";
    if (input.strides()[rank - 1] != 1 && input.shape().back() != 1) return "takes dense rows only";
  }
  return std::nullopt;
}

}  // namespace rondo::cuda
