// Element by element: activations, sums, copies, lookups; as many at a time as 16 bytes hold where they lie so. Indices
// are 64 bits wide.
#pragma once

#include "backends/cuda/device/numbers.cuh"

namespace rondo::cuda {

__device__ inline float activation_of(Activation kind, float x) {
  switch (kind) {
    case Activation::gelu_tanh: return 0.5F * x * (1.0F + tanhf(0.79788456080286536F * (x + 0.044715F * x * x * x)));
    case Activation::gelu_erf: return 0.5F * x * (1.0F + erff(x * 0.70710678118654752F));
    case Activation::quick_gelu: return x / (1.0F + expf(-1.702F * x));
    case Activation::silu: return x / (1.0F + expf(-x));
    case Activation::mish: return x * tanhf(x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x)));
    case Activation::relu: return x > 0 || isnan(x) ? x : 0.0F;
  }
  return 0;
}

__device__ inline std::int64_t own_element() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
/// Grids end at 2^31 blocks: a thread goes on to the element as many further as there are threads.
__device__ inline std::int64_t element_step() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

__device__ inline std::int64_t view_offset(const View& view, std::int64_t index) {
  std::int64_t offset = 0;
  for (int axis = View::kAxes - 1; axis >= 0; --axis) {
    offset += index % view.extent[axis] * view.stride[axis];
    index /= view.extent[axis];
  }
  return offset;
}

__device__ inline std::int64_t elements_of(const View& view) {
  std::int64_t count = 1;
  for (const std::int64_t extent : view.extent) count *= extent;
  return count;
}

/// Calls visit(row, first) for every `pack` elements of rows of `width`, a multiple of it.
template <int pack, typename Visit>
__device__ void for_packs(std::int64_t rows, std::int64_t width, const Visit& visit) {
  const std::int64_t packs = width / pack;
  for (std::int64_t i = own_element(); i < rows * packs; i += element_step()) visit(i / packs, i % packs * pack);
}

template <typename T, int pack>
__global__ void activate_kernel(Activation kind, RowView x, RowView y) {
  for_packs<pack>(x.rows(), x.width, [&](std::int64_t row, std::int64_t at) {
    float values[pack];
    load_floats(row_of<const T>(x, row) + at, values);
    for (float& value : values) value = activation_of(kind, value);
    store_floats(values, row_of<T>(y, row) + at);
  });
}

template <typename T, int pack>
__global__ void swiglu_kernel(RowView x, RowView y) {
  for_packs<pack>(y.rows(), y.width, [&](std::int64_t row, std::int64_t at) {
    float values[pack];
    float gates[pack];
    load_floats(row_of<const T>(x, row) + at, values);
    load_floats(row_of<const T>(x, row) + y.width + at, gates);
    for (int j = 0; j < pack; ++j) values[j] *= activation_of(Activation::silu, gates[j]);
    store_floats(values, row_of<T>(y, row) + at);
  });
}

/// A modulation's numbers for the row.
template <typename T, int pack>
__device__ void load_modulation(const Modulation& m, std::int64_t row, std::int64_t tokens, std::int64_t at,
                                float (&values)[pack]) {
  load_parameters<T>(m.data, m.number, modulation_row(m, row, tokens) + at, values);
}

template <typename T, int pack>
__global__ void modulate_kernel(RowView x, Modulation scale, Modulation shift, std::int64_t tokens, RowView y) {
  for_packs<pack>(x.rows(), x.width, [&](std::int64_t row, std::int64_t at) {
    float values[pack];
    float factors[pack];
    float offsets[pack];
    load_floats(row_of<const T>(x, row) + at, values);
    load_modulation<T>(scale, row, tokens, at, factors);
    load_modulation<T>(shift, row, tokens, at, offsets);
    for (int j = 0; j < pack; ++j) values[j] = values[j] * (1.0F + factors[j]) + offsets[j];
    store_floats(values, row_of<T>(y, row) + at);
  });
}

template <typename T, int pack>
__global__ void gated_add_kernel(RowView x, Modulation gate, RowView more, std::int64_t tokens, RowView y) {
  for_packs<pack>(x.rows(), x.width, [&](std::int64_t row, std::int64_t at) {
    float values[pack];
    float factors[pack];
    float added[pack];
    load_floats(row_of<const T>(x, row) + at, values);
    load_modulation<T>(gate, row, tokens, at, factors);
    load_floats(row_of<const T>(more, row) + at, added);
    for (int j = 0; j < pack; ++j) values[j] += factors[j] * added[j];
    store_floats(values, row_of<T>(y, row) + at);
  });
}

template <typename T>
__global__ void combine_kernel(Binary kind, View a, View b, View y) {
  const std::int64_t count = elements_of(y);
  for (std::int64_t i = own_element(); i < count; i += element_step()) {
    const float left = to_float(static_cast<const T*>(a.data)[view_offset(a, i)]);
    const float right = to_float(static_cast<const T*>(b.data)[view_offset(b, i)]);
    static_cast<T*>(y.data)[view_offset(y, i)] = from_float<T>(kind == Binary::add ? left + right : left * right);
  }
}

/// The same of dense rows.
template <typename T, int pack>
__global__ void combine_rows_kernel(Binary kind, RowView a, RowView b, RowView y) {
  for_packs<pack>(y.rows(), y.width, [&](std::int64_t row, std::int64_t at) {
    float left[pack];
    float right[pack];
    load_floats(row_of<const T>(a, row) + at, left);
    load_floats(row_of<const T>(b, row) + at, right);
    for (int j = 0; j < pack; ++j) left[j] = kind == Binary::add ? left[j] + right[j] : left[j] * right[j];
    store_floats(left, row_of<T>(y, row) + at);
  });
}

template <typename From, typename To>
__global__ void convert_kernel(View from, View to) {
  const std::int64_t count = elements_of(to);
  for (std::int64_t i = own_element(); i < count; i += element_step())
    static_cast<To*>(to.data)[view_offset(to, i)] =
        from_float<To>(to_float(static_cast<const From*>(from.data)[view_offset(from, i)]));
}

/// Elements of a size, whatever they mean.
template <typename Bits>
__global__ void copy_kernel(View from, View to) {
  const std::int64_t count = elements_of(to);
  for (std::int64_t i = own_element(); i < count; i += element_step())
    static_cast<Bits*>(to.data)[view_offset(to, i)] = static_cast<const Bits*>(from.data)[view_offset(from, i)];
}

/// The same of dense rows, 16 bytes at a time.
template <typename Bits>
__global__ void copy_rows_kernel(RowView from, RowView to) {
  constexpr int kPack = 16 / sizeof(Bits);
  for_packs<kPack>(to.rows(), to.width, [&](std::int64_t row, std::int64_t at) {
    *reinterpret_cast<Pack<Bits, kPack>*>(row_of<Bits>(to, row) + at) =
        *reinterpret_cast<const Pack<Bits, kPack>*>(row_of<const Bits>(from, row) + at);
  });
}

template <typename T>
__global__ void fill_kernel(View to, float value) {
  const std::int64_t count = elements_of(to);
  for (std::int64_t i = own_element(); i < count; i += element_step())
    static_cast<T*>(to.data)[view_offset(to, i)] = from_float<T>(value);
}

__device__ inline std::int64_t clamped_index(const View& ids, std::int64_t at, std::int64_t count) {
  const std::int64_t offset = view_offset(ids, at);
  const std::int64_t id = ids.number == Number::s64 ? static_cast<const std::int64_t*>(ids.data)[offset]
                                                    : static_cast<const std::int32_t*>(ids.data)[offset];
  return id < 0 ? 0 : id >= count ? count - 1 : id;
}

template <typename T>
__global__ void embed_kernel(View ids, RowView table, RowView y) {
  for (std::int64_t i = own_element(); i < y.rows() * y.width; i += element_step()) {
    const std::int64_t row = clamped_index(ids, i / y.width, table.rows());
    row_of<T>(y, i / y.width)[i % y.width] =
        from_float<T>(load(table.data, table.number, row_offset(table, row) + i % y.width));
  }
}

template <typename T>
__global__ void select_rows_kernel(View x, View index, RowView y) {
  // x is [B, S, D] in the last three axes.
  constexpr int kBatch = View::kAxes - 3;
  for (std::int64_t i = own_element(); i < y.rows() * y.width; i += element_step()) {
    const std::int64_t batch = i / y.width;
    const std::int64_t row = clamped_index(index, batch, x.extent[kBatch + 1]);
    const std::int64_t offset =
        batch * x.stride[kBatch] + row * x.stride[kBatch + 1] + i % y.width * x.stride[kBatch + 2];
    row_of<T>(y, batch)[i % y.width] = static_cast<const T*>(x.data)[offset];
  }
}

template <typename T>
__global__ void position_bias_kernel(RowView table, const std::int32_t* buckets, std::int64_t length, View y) {
  const std::int64_t pairs = length * length;
  for (std::int64_t i = own_element(); i < table.width * pairs; i += element_step()) {
    const std::int64_t head = i / pairs;
    static_cast<float*>(y.data)[view_offset(y, i)] = to_float(row_of<const T>(table, buckets[i % pairs])[head]);
  }
}

template <typename T>
__global__ void sinusoid_kernel(const float* t, const float* frequencies, std::int64_t half, RowView y) {
  for (std::int64_t i = own_element(); i < y.rows() * half; i += element_step()) {
    const float angle = t[i / half] * frequencies[i % half];
    row_of<T>(y, i / half)[i % half] = from_float<T>(cosf(angle));
    row_of<T>(y, i / half)[half + i % half] = from_float<T>(sinf(angle));
  }
}

}  // namespace rondo::cuda
