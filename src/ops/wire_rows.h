// Rows in 8 bits for the way between ranks: a quarter of float32's bytes, half of bfloat16's.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// Bytes of a row on its way: its values, then a float32 scale a part.
std::int64_t wire_row_bytes(std::span<const std::int64_t> parts);

/// One row there and back. A row is cut into parts, such as a key and its value, each of which has a scale: its largest
/// magnitude / 127. A part that holds a NaN or an infinity comes back as NaN.
void row_to_wire(std::span<const std::int64_t> parts, const float* row, std::int8_t* bytes);
void row_from_wire(std::span<const std::int64_t> parts, const std::int8_t* bytes, float* row);

/// x [..., W] floating -> int8 [..., wire_row_bytes()]
class RowsToWireOp final : public Operator {
 public:
  explicit RowsToWireOp(std::vector<std::int64_t> parts) : parts_(std::move(parts)) {}
  const std::vector<std::int64_t>& parts() const { return parts_; }
  std::string_view name() const override { return "rows_to_wire"; }
  std::string attributes() const override { return fmt::format("{}", fmt::join(parts_, "+")); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::vector<std::int64_t> parts_;
};

/// int8 [..., wire_row_bytes()] -> [..., W] in the given dtype
class RowsFromWireOp final : public Operator {
 public:
  RowsFromWireOp(std::vector<std::int64_t> parts, DType dtype) : parts_(std::move(parts)), dtype_(dtype) {}
  const std::vector<std::int64_t>& parts() const { return parts_; }
  std::string_view name() const override { return "rows_from_wire"; }
  std::string attributes() const override { return fmt::format("{} {}", fmt::join(parts_, "+"), dtype_name(dtype_)); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::vector<std::int64_t> parts_;
  DType dtype_;
};

}  // namespace rondo
