// Operators that pick rows by index or position: embeddings, row selection, T5's relative position bias, the sinusoid
// of a timestep.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// ids [B, S] int32, table [V, D] -> [B, S, D] in `dtype`. Ids outside [0, V) are the caller's error and are checked
/// before the run; a kernel clamps them.
class EmbeddingOp final : public Operator {
 public:
  explicit EmbeddingOp(DType dtype) : dtype_(dtype) {}
  std::string_view name() const override { return "embedding"; }
  std::string attributes() const override { return std::string(dtype_name(dtype_)); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  DType dtype_;
};

/// x [B, S, D], index [B] int32 -> [B, D]: one row of each sequence.
class SelectRowOp final : public Operator {
 public:
  std::string_view name() const override { return "select_row"; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;
};

/// table [buckets, H] -> float32 [1, H, S, S], T5's bidirectional buckets (Raffel et al., 2020): half for each sign;
/// within it half exact, half logarithmic up to max_distance.
class RelativePositionBiasOp final : public Operator {
 public:
  RelativePositionBiasOp(std::int64_t length, std::int64_t max_distance)
      : length_(length), max_distance_(max_distance) {}
  std::int64_t max_distance() const { return max_distance_; }
  /// [length * length] int32: the bucket of every query and key.
  Tensor bucket_table(std::int64_t buckets) const;
  std::string_view name() const override { return "relative_position_bias"; }
  std::string attributes() const override { return fmt::format("length={} max_distance={}", length_, max_distance_); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::int64_t length_;
  std::int64_t max_distance_;
};

/// The bucket of T5's relative position `distance` = key position - query position.
std::int64_t t5_bucket(std::int64_t distance, std::int64_t buckets, std::int64_t max_distance);

/// t [B] float32 -> [B, width] in `dtype`: cosines, then sines, of t * 10000^(-i / (width / 2)).
class TimestepSinusoidOp final : public Operator {
 public:
  TimestepSinusoidOp(std::int64_t width, DType dtype) : width_(width), dtype_(dtype) {}
  /// [1, width / 2] float32, rounded as diffusers rounds them: at t = 1000 a float64 angle would differ by 6e-5.
  static Tensor frequencies(std::int64_t width);
  std::string_view name() const override { return "timestep_sinusoid"; }
  std::string attributes() const override { return fmt::format("width={} {}", width_, dtype_name(dtype_)); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::int64_t width_;
  DType dtype_;
};

}  // namespace rondo
