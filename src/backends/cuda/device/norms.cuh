// Norms over rows, in float32, each row read once: a thread keeps its part in registers. Rows of up to 1024 elements
// are a warp's (four to a block), longer ones a block's.
#pragma once

#include "backends/cuda/device/numbers.cuh"

namespace rondo::cuda {

constexpr int kBlock = 256;
constexpr int kWarpRows = 4;  // rows a block where each is a warp's

/// Elements `pack` at a time, `packs` times a thread: what a row of `width` is cut into.
template <typename T, int pack, int packs, int threads>
struct RowPart {
  float values[pack * packs];
  int lane;

  __device__ void read(const T* row, std::int64_t width) {
    for (int i = 0; i < packs; ++i) {
      const std::int64_t at = (static_cast<std::int64_t>(i) * threads + lane) * pack;
      if (at < width) {
        const auto loaded = *reinterpret_cast<const Pack<T, pack>*>(row + at);
        for (int j = 0; j < pack; ++j) values[i * pack + j] = to_float(loaded.values[j]);
      } else {
        for (int j = 0; j < pack; ++j) values[i * pack + j] = 0;
      }
    }
  }
  /// element(value, index) for every element that is there.
  template <typename Element>
  __device__ void for_each(std::int64_t width, const Element& element) {
    for (int i = 0; i < packs; ++i) {
      const std::int64_t at = (static_cast<std::int64_t>(i) * threads + lane) * pack;
      if (at >= width) continue;
      for (int j = 0; j < pack; ++j) element(values[i * pack + j], at + j);
    }
  }
  __device__ void write(T* row, std::int64_t width) const {
    for (int i = 0; i < packs; ++i) {
      const std::int64_t at = (static_cast<std::int64_t>(i) * threads + lane) * pack;
      if (at >= width) continue;
      Pack<T, pack> stored;
      for (int j = 0; j < pack; ++j) stored.values[j] = from_float<T>(values[i * pack + j]);
      *reinterpret_cast<Pack<T, pack>*>(row + at) = stored;
    }
  }
};

/// Which row this thread works on, and where in it.
template <int threads>
__device__ std::int64_t own_row() {
  if constexpr (threads == kWarp)
    return static_cast<std::int64_t>(blockIdx.x) * kWarpRows + threadIdx.x / kWarp;
  else
    return blockIdx.x;
}
template <int threads>
__device__ int own_lane() {
  return static_cast<int>(threadIdx.x) % threads;
}

__device__ inline float modulation_at(const Modulation& m, std::int64_t row, std::int64_t tokens, std::int64_t i) {
  return load(m.data, m.number, modulation_row(m, row, tokens) + i);
}

template <typename T, int pack, int packs, int threads>
__global__ void rms_norm_kernel(RowView x, RowView residual, Vector weight, float eps, RowView y, RowView sum) {
  const std::int64_t row = own_row<threads>();
  if (row >= x.rows()) return;  // whole warps, or none of the block
  RowPart<T, pack, packs, threads> part{{}, own_lane<threads>()};
  part.read(row_of<const T>(x, row), x.width);
  if (residual.data != nullptr) {
    RowPart<T, pack, packs, threads> more{{}, part.lane};
    more.read(row_of<const T>(residual, row), x.width);
    for (int i = 0; i < pack * packs; ++i) part.values[i] += more.values[i];
    part.write(row_of<T>(sum, row), x.width);  // rounded; the norm takes it before
  }
  float squares = 0;
  for (const float value : part.values) squares += value * value;
  const float factor = rsqrtf(row_sum<threads>(squares) / static_cast<float>(x.width) + eps);
  part.for_each(x.width, [&](float& value, std::int64_t i) {
    value *= factor * (weight.data == nullptr ? 1.0F : load(weight.data, weight.number, i));
  });
  part.write(row_of<T>(y, row), x.width);
}

template <typename T, int pack, int packs, int threads>
__global__ void layer_norm_kernel(RowView x, Vector weight, Vector bias, Modulation scale, Modulation shift,
                                  std::int64_t tokens, float eps, RowView y) {
  const std::int64_t row = own_row<threads>();
  if (row >= x.rows()) return;
  RowPart<T, pack, packs, threads> part{{}, own_lane<threads>()};
  part.read(row_of<const T>(x, row), x.width);
  // Relative to the row's first element: equal elements give zeros, and a mean far from zero costs no digits.
  const float first = to_float(row_of<const T>(x, row)[0]);
  float sum = 0;
  part.for_each(x.width, [&](float& value, std::int64_t) {
    value -= first;
    sum += value;
  });
  const float mean = row_sum<threads>(sum) / static_cast<float>(x.width);
  float squares = 0;
  part.for_each(x.width, [&](float& value, std::int64_t) {
    value -= mean;
    squares += value * value;
  });
  const float factor = rsqrtf(row_sum<threads>(squares) / static_cast<float>(x.width) + eps);
  part.for_each(x.width, [&](float& value, std::int64_t i) {
    value *= factor;
    if (weight.data != nullptr) value = value * load(weight.data, weight.number, i) + load(bias.data, bias.number, i);
    if (scale.data != nullptr)
      value = value * (1.0F + modulation_at(scale, row, tokens, i)) + modulation_at(shift, row, tokens, i);
  });
  part.write(row_of<T>(y, row), x.width);
}

/// Rows of heads, rotated in pairs of neighbours by tables in float32: `group` lanes a row, each with `pack` elements,
/// which are read once. With `norms` RMS-normed first.
template <typename T, int pack, int group>
__global__ void rotate_pairs_kernel(RowView x, RotaryTables tables, bool norms, Vector weight, float eps, RowView y) {
  constexpr bool kPairs = pack % 2 == 0;
  static_assert(kPairs && kWarp % group == 0);
  const std::int64_t rows = x.rows();
  const int at = static_cast<int>(threadIdx.x) % group * pack;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x / group;
  const std::int64_t own = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / group;
  const std::int64_t of_warp = own - static_cast<int>(threadIdx.x) % kWarp / group;  // its lanes go on together
  for (std::int64_t ahead = 0; of_warp + ahead < rows; ahead += step) {
    const std::int64_t row = own + ahead;
    const bool there = row < rows && at < x.width;
    float values[pack] = {};
    if (there) load_floats(row_of<const T>(x, row) + at, values);
    if (norms) {
      float squares = 0;
      for (const float value : values) squares += value * value;
      for (int distance = group / 2; distance > 0; distance /= 2)
        squares += __shfl_xor_sync(0xFFFFFFFFU, squares, distance);
      const float factor = rsqrtf(squares / static_cast<float>(x.width) + eps);
      for (int j = 0; there && j < pack; ++j)
        values[j] *= factor * (weight.data == nullptr ? 1.0F : load(weight.data, weight.number, at + j));
    }
    if (!there) continue;
    // x is [B, S, N, D]: the token is the axis before the heads.
    const std::int64_t token = row / x.extent[3] % x.extent[2];
    const auto* const cosines = static_cast<const float*>(tables.cos.data) + token * tables.stride;
    const auto* const sines = static_cast<const float*>(tables.sin.data) + token * tables.stride;
    float cos[pack];
    float sin[pack];
    if (tables.width < x.width) {  // one for each pair
      float half_cos[pack / 2];
      float half_sin[pack / 2];
      load_floats(cosines + at / 2, half_cos);
      load_floats(sines + at / 2, half_sin);
      for (int j = 0; j < pack; ++j) {
        cos[j] = half_cos[j / 2];
        sin[j] = half_sin[j / 2];
      }
    } else {
      load_floats(cosines + at, cos);
      load_floats(sines + at, sin);
    }
    float turned[pack];
    for (int j = 0; j < pack; j += 2) {
      turned[j] = values[j] * cos[j] - values[j + 1] * sin[j];
      turned[j + 1] = values[j + 1] * cos[j + 1] + values[j] * sin[j + 1];
    }
    store_floats(turned, row_of<T>(y, row) + at);
  }
}

/// Rows of heads, rotated: a warp a row, each lane with whole pairs. With `norms` RMS-normed first.
template <typename T>
__global__ void rotate_kernel(RowView x, RotaryTables tables, bool norms, Vector weight, float eps, RowView y) {
  const std::int64_t row = own_row<kWarp>();
  if (row >= x.rows()) return;
  const int lane = own_lane<kWarp>();
  const T* const from = row_of<const T>(x, row);
  T* const to = row_of<T>(y, row);
  const std::int64_t half = x.width / 2;
  float factor = 1;
  if (norms) {
    float squares = 0;
    for (std::int64_t i = lane; i < x.width; i += kWarp) {
      const float value = to_float(from[i]);
      squares += value * value;
    }
    factor = rsqrtf(warp_sum(squares) / static_cast<float>(x.width) + eps);
  }
  // x is [B, S, N, D]: the token is the axis before the heads.
  const std::int64_t token = row / x.extent[3] % x.extent[2];
  const auto normed = [&](std::int64_t i) {
    const float w = weight.data == nullptr ? 1.0F : load(weight.data, weight.number, i);
    return to_float(from[i]) * (norms ? factor * w : 1.0F);
  };
  for (std::int64_t pair = lane; pair < half; pair += kWarp) {
    const std::int64_t first = tables.interleaved ? 2 * pair : pair;
    const std::int64_t second = tables.interleaved ? 2 * pair + 1 : pair + half;
    const bool narrow = tables.width == half;
    const auto table = [&](const Vector& values, std::int64_t i) {
      return load(values.data, values.number, token * tables.stride + i);
    };
    const float a = normed(first);
    const float b = normed(second);
    const std::int64_t at_first = narrow ? pair : first;
    const std::int64_t at_second = narrow ? pair : second;
    // Both are read before either is written: y may lie over x.
    to[first] = from_float<T>(a * table(tables.cos, at_first) - b * table(tables.sin, at_first));
    to[second] = from_float<T>(b * table(tables.cos, at_second) + a * table(tables.sin, at_second));
  }
}

}  // namespace rondo::cuda
