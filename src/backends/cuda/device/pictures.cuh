// GroupNorm of channels-last pictures [B, P, C].
#pragma once

#include "backends/cuda/device/norms.cuh"

namespace rondo::cuda {

/// (mean, 1 / sqrt(variance + eps)) of one batch's group, or with `raw` the variance itself: a block each. Two passes,
/// so that a mean far from zero costs nothing.
template <typename T>
__global__ void group_moments_kernel(RowView x, std::int64_t positions, std::int64_t groups, bool raw, float eps,
                                     float* moments) {
  const std::int64_t batch = blockIdx.x / groups;
  const std::int64_t channels = x.width / groups;
  const std::int64_t first = blockIdx.x % groups * channels;
  const std::int64_t count = positions * channels;
  const auto value = [&](std::int64_t i) {
    return to_float(row_of<const T>(x, batch * positions + i / channels)[first + i % channels]);
  };
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kBlock) sum += value(i);
  const float mean = row_sum<kBlock>(sum) / static_cast<float>(count);
  float squares = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kBlock) squares += (value(i) - mean) * (value(i) - mean);
  const float variance = row_sum<kBlock>(squares) / static_cast<float>(count);
  if (threadIdx.x == 0) {
    moments[2 * blockIdx.x] = mean;
    moments[2 * blockIdx.x + 1] = raw ? variance : rsqrtf(variance + eps);
  }
}

/// (mean, 1 / sqrt(variance + eps)) of `pairs` groups, from the moments [parts, pairs, 2] of parts that have so many
/// positions each.
__global__ inline void join_moments_kernel(const float* parts, PartCounts counts, std::int64_t pairs, float eps,
                                           float* moments) {
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pair >= pairs) return;
  float count = 0;
  float mean = 0;
  float squares = 0;
  for (int part = 0; part < counts.count; ++part) {
    const auto more = static_cast<float>(counts.positions[part]);
    if (more == 0) continue;
    const float* const of_part = parts + 2 * (part * pairs + pair);
    const float distance = of_part[0] - mean;
    squares += of_part[1] * more + distance * distance * (count * (more / (count + more)));
    mean += distance * (more / (count + more));
    count += more;
  }
  moments[2 * pair] = mean;
  moments[2 * pair + 1] = rsqrtf((count == 0 ? 0 : squares / count) + eps);
}

template <typename T>
__global__ void group_norm_kernel(RowView x, std::int64_t positions, std::int64_t groups, Vector weight, Vector bias,
                                  const float* moments, RowView y) {
  const std::int64_t channels = x.width / groups;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < x.rows() * x.width;
       i += step) {
    const std::int64_t row = i / x.width;
    const std::int64_t channel = i % x.width;
    const float* const of_group = moments + 2 * (row / positions * groups + channel / channels);
    const float value = (to_float(row_of<const T>(x, row)[channel]) - of_group[0]) * of_group[1];
    row_of<T>(y, row)[channel] =
        from_float<T>(value * load(weight.data, weight.number, channel) + load(bias.data, bias.number, channel));
  }
}

}  // namespace rondo::cuda
