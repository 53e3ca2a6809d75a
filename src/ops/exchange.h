// Operators of parallel graphs: what ranks send each other (parallel/), and how it is packed.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// Elements [begin, end) of a buffer.
struct ElementRange {
  std::int64_t begin;
  std::int64_t end;
};

/// What one rank sends and receives at once. Messages of one pair of ranks stand in the same order on both sides.
struct ExchangePlan {
  struct Message {
    int peer;  // of the ranks that share the sequence
    ElementRange range;
  };
  /// What the exchange is for: "scatter heads", "ring".
  std::string purpose;
  /// Tells the exchanges of a graph apart; the same on all ranks.
  int slot;
  std::vector<Message> sends;     // of the input
  std::vector<Message> receives;  // of the output
  /// From the input into the output, on this rank.
  struct Copy {
    std::int64_t from;
    std::int64_t to;
    std::int64_t elements;
  };
  std::vector<Copy> copies;
};

/// x, dense -> the output, of the given type, while messages are on their way: neither may be touched before a WaitOp
/// of the same slot returns. What only other ranks know has no reference.
class ExchangeOp final : public Operator {
 public:
  ExchangeOp(ExchangePlan plan, const TensorType& output) : plan_(std::move(plan)), output_(output) {}
  const ExchangePlan& plan() const { return plan_; }
  std::string_view name() const override { return "exchange"; }
  std::string attributes() const override;
  bool has_effect() const override { return true; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  ExchangePlan plan_;
  TensorType output_;
};

/// received, and what must not be overwritten while messages leave (any number) -> received, once all have come.
class WaitOp final : public Operator {
 public:
  explicit WaitOp(int slot) : slot_(slot) {}
  int slot() const { return slot_; }
  std::string_view name() const override { return "wait"; }
  std::string attributes() const override { return fmt::format("slot={}", slot_); }
  bool has_effect() const override { return true; }
  int overwritable_input() const override { return 0; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  int slot_;
};

/// Some tokens and heads of one sequence of a batch.
struct HeadBlock {
  std::int64_t batch;
  ElementRange tokens;
  ElementRange heads;
};

/// Tensors x_i [B, S, H, D_i] -> [total]: block after block, token after token, head after head, the rows of all x_i
/// beside each other. Head h of a block is head h / `repeats` of the inputs.
class PackHeadsOp final : public Operator {
 public:
  explicit PackHeadsOp(std::vector<HeadBlock> blocks, std::int64_t repeats = 1)
      : blocks_(std::move(blocks)), repeats_(repeats) {}
  const std::vector<HeadBlock>& blocks() const { return blocks_; }
  std::int64_t repeats() const { return repeats_; }
  std::string_view name() const override { return "pack_heads"; }
  std::string attributes() const override;
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::vector<HeadBlock> blocks_;
  std::int64_t repeats_;
};

/// packed [total] -> [B, S, H, D], whose elements the blocks cover: what PackHeadsOp does, backwards.
class UnpackHeadsOp final : public Operator {
 public:
  UnpackHeadsOp(std::vector<HeadBlock> blocks, const Shape& shape) : blocks_(std::move(blocks)), shape_(shape) {}
  const std::vector<HeadBlock>& blocks() const { return blocks_; }
  std::string_view name() const override { return "unpack_heads"; }
  std::string attributes() const override;
  RowGaps row_gaps() const override { return RowGaps::anywhere; }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::vector<HeadBlock> blocks_;
  Shape shape_;
};

}  // namespace rondo
