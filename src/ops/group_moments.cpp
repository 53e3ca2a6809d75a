#include "ops/group_moments.h"

#include <cmath>

namespace rondo {

std::vector<TensorType> GroupMomentsOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 1, 1);
  check_floating(inputs);
  const Shape& x = inputs[0].shape;
  check(x.rank() >= 2 && groups_ > 0 && x.back() % groups_ == 0,
        "input {} and {} groups do not fit; allowed are [B, ..., C] with C a multiple of groups", x.to_string(),
        groups_);
  return {{{x[0], groups_, 2}, DType::f32, inputs[0].device}};
}

void GroupMomentsOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const std::int64_t channels = x.shape.back();
  const std::int64_t per_group = channels / groups_;
  const std::int64_t positions = x.shape.rows() / x.shape[0];
  const auto count = static_cast<double>(std::max<std::int64_t>(1, positions * per_group));
  for (std::int64_t b = 0; b < x.shape[0]; ++b) {
    for (std::int64_t g = 0; g < groups_; ++g) {
      const auto sum = [&](auto&& of) {
        double total = 0;
        for (std::int64_t p = 0; p < positions; ++p) {
          for (std::int64_t c = 0; c < per_group; ++c)
            total += of(x.values[static_cast<std::size_t>((b * positions + p) * channels + g * per_group + c)]);
        }
        return total / count;
      };
      const double mean = sum([](double value) { return value; });
      double* target = &outputs[0].values[static_cast<std::size_t>((b * groups_ + g) * 2)];
      target[0] = mean;
      target[1] = sum([mean](double value) { return (value - mean) * (value - mean); });
    }
  }
}

std::vector<TensorType> GroupNormByMomentsOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 4, 4);
  check_floating(inputs);
  const Shape& x = inputs[0].shape;
  const Shape& moments = inputs[1].shape;
  const bool fits = x.rank() >= 2 && moments.rank() == 4 && moments[0] == static_cast<std::int64_t>(counts_.size()) &&
                    moments[1] == x[0] && moments[2] > 0 && moments[3] == 2 && x.back() % moments[2] == 0 &&
                    inputs[2].shape == Shape{x.back()} && inputs[3].shape == Shape{x.back()} &&
                    inputs[1].dtype == DType::f32;
  check(fits,
        "input {}, moments {}, weight {} and bias {} do not fit {} parts; allowed are [B, ..., C], float32 [parts, "
        "B, groups, 2], [C] and [C]",
        x.to_string(), inputs[1].to_string(), inputs[2].shape.to_string(), inputs[3].shape.to_string(), counts_.size());
  return {inputs[0]};
}

void GroupNormByMomentsOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const Shape& m = inputs[1].shape;
  const std::int64_t channels = x.shape.back();
  const std::int64_t positions = x.shape.rows() / x.shape[0];
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    const std::int64_t c = static_cast<std::int64_t>(i) % channels;
    const std::int64_t b = static_cast<std::int64_t>(i) / channels / std::max<std::int64_t>(1, positions);
    const auto [mean, variance] = joined_moments(counts_, [&](std::size_t part) {
      const auto at =
          static_cast<std::size_t>(((static_cast<std::int64_t>(part) * m[1] + b) * m[2] + c / (channels / m[2])) * 2);
      return std::pair(inputs[1].values[at], inputs[1].values[at + 1]);
    });
    outputs[0].values[i] =
        (x.values[i] - mean) / std::sqrt(variance + eps_) * inputs[2].values[static_cast<std::size_t>(c)] +
        inputs[3].values[static_cast<std::size_t>(c)];
  }
}

}  // namespace rondo
