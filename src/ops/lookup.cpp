#include "ops/lookup.h"

#include <algorithm>
#include <cmath>

namespace rondo {

std::vector<TensorType> EmbeddingOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 2, 2);
  const Shape& ids = inputs[0].shape;
  const Shape& table = inputs[1].shape;
  check(inputs[0].dtype == DType::s32 && is_floating(inputs[1].dtype) && ids.rank() == 2 && table.rank() == 2,
        "ids {} and table {} do not fit; allowed are int32 [B, S] and floating [V, D]", inputs[0].to_string(),
        inputs[1].to_string());
  TensorType result = inputs[1];
  result.shape = {ids[0], ids[1], table[1]};
  result.dtype = dtype_;
  return {result};
}

void EmbeddingOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::int64_t width = inputs[1].shape[1];
  for (std::size_t i = 0; i < inputs[0].values.size(); ++i) {
    const auto id = std::clamp<std::int64_t>(static_cast<std::int64_t>(inputs[0].values[i]), 0, inputs[1].shape[0] - 1);
    std::copy_n(&inputs[1].values[id * width], width, &outputs[0].values[i * width]);
  }
}

std::vector<TensorType> SelectRowOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 2, 2);
  const Shape& x = inputs[0].shape;
  check(x.rank() == 3 && inputs[1].dtype == DType::s32 && inputs[1].shape == Shape{x[0]},
        "input {} and index {} do not fit; allowed are [B, S, D] and int32 [B]", inputs[0].to_string(),
        inputs[1].to_string());
  TensorType result = inputs[0];
  result.shape = {x[0], x[2]};
  return {result};
}

void SelectRowOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const Shape& x = inputs[0].shape;
  for (std::int64_t b = 0; b < x[0]; ++b) {
    const auto row = std::clamp<std::int64_t>(static_cast<std::int64_t>(inputs[1].values[b]), 0, x[1] - 1);
    std::copy_n(&inputs[0].values[(b * x[1] + row) * x[2]], x[2], &outputs[0].values[b * x[2]]);
  }
}

std::int64_t t5_bucket(std::int64_t distance, std::int64_t buckets, std::int64_t max_distance) {
  const std::int64_t half = buckets / 2;
  const std::int64_t base = distance > 0 ? half : 0;
  const std::int64_t length = std::abs(distance);
  const std::int64_t exact = half / 2;
  if (length < exact) return base + length;
  // In float32, as the published models were trained: the logarithm decides ties at bucket edges.
  const float ratio = std::log(static_cast<float>(length) / static_cast<float>(exact)) /
                      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const auto step = static_cast<std::int64_t>(ratio * static_cast<float>(half - exact));
  return base + std::min(exact + step, half - 1);
}

std::vector<TensorType> RelativePositionBiasOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check_floating(inputs);
  check(inputs[0].shape.rank() == 2 && inputs[0].shape[0] >= 4, "table {} does not fit; allowed is [buckets, heads]",
        inputs[0].shape.to_string());
  TensorType result = inputs[0];
  result.dtype = DType::f32;
  result.shape = {1, inputs[0].shape[1], length_, length_};
  return {result};
}

void RelativePositionBiasOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::int64_t buckets = inputs[0].shape[0];
  const std::int64_t heads = inputs[0].shape[1];
  std::size_t target = 0;
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t q = 0; q < length_; ++q) {
      for (std::int64_t k = 0; k < length_; ++k) {
        outputs[0].values[target++] = inputs[0].values[t5_bucket(k - q, buckets, max_distance_) * heads + h];
      }
    }
  }
}

Tensor RelativePositionBiasOp::bucket_table(std::int64_t buckets) const {
  Tensor table = Tensor::empty({length_ * length_}, DType::s32);
  auto* bucket = table.as<std::int32_t>();
  for (std::int64_t query = 0; query < length_; ++query) {
    for (std::int64_t key = 0; key < length_; ++key)
      *bucket++ = static_cast<std::int32_t>(t5_bucket(key - query, buckets, max_distance_));
  }
  return table;
}

Tensor TimestepSinusoidOp::frequencies(std::int64_t width) {
  const std::int64_t half = width / 2;
  Tensor all = Tensor::empty({1, half}, DType::f32);
  for (std::int64_t i = 0; i < half; ++i) {
    all.as<float>()[i] =
        std::exp(static_cast<float>(-std::log(10000.0)) * static_cast<float>(i) / static_cast<float>(half));
  }
  return all;
}

std::vector<TensorType> TimestepSinusoidOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check(inputs[0].shape.rank() == 1 && inputs[0].dtype == DType::f32 && width_ % 2 == 0,
        "input {} with width {} does not fit; allowed are float32 [B] and an even width", inputs[0].to_string(),
        width_);
  TensorType result = inputs[0];
  result.shape = {inputs[0].shape[0], width_};
  result.dtype = dtype_;
  return {result};
}

void TimestepSinusoidOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const std::int64_t half = width_ / 2;
  const Tensor each = frequencies(width_);
  for (std::int64_t b = 0; b < inputs[0].shape[0]; ++b) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(inputs[0].values[b]) * each.as<float>()[i];  // in float32, too
      outputs[0].values[b * width_ + i] = std::cos(static_cast<double>(angle));
      outputs[0].values[b * width_ + half + i] = std::sin(static_cast<double>(angle));
    }
  }
}

}  // namespace rondo
