// What the parallelism pass builds graphs of: tokens gathered or kept, tokens exchanged for heads, keys sent on.
#pragma once

#include <span>

#include "graph/builder.h"
#include "parallel/token_layout.h"

namespace rondo {

/// An exchange that is under way.
struct StartedExchange {
  ValueId received;
  ValueId sent;
  int slot;
};

/// Heads of an attention on the ranks of a Ulysses group.
struct HeadSplit {
  std::vector<std::int64_t> bounds;  // where each rank's heads begin, and the end
  /// How many heads in a row are one head of the operand.
  std::int64_t repeats = 1;
  ElementRange of(int rank) const {
    return {bounds[static_cast<std::size_t>(rank)], bounds[static_cast<std::size_t>(rank) + 1]};
  }
  std::int64_t count(int rank) const { return of(rank).end - of(rank).begin; }
};

class CollectiveBuilder {
 public:
  CollectiveBuilder(GraphBuilder& builder, const SequenceParallel& how) : b_(builder), how_(how) {}

  GraphBuilder& builder() const { return b_; }
  const SequenceParallel& how() const { return how_; }

  /// x [B, tokens of this rank, ...] -> [B, all tokens, ...]
  ValueId gather_tokens(ValueId x, const TokenLayout& layout);
  /// The same tokens, of which rank r then has those in wanted[r] of the whole sequence, whoever held them.
  ValueId fetch_tokens(ValueId x, const TokenLayout& layout, std::span<const ElementRange> wanted, std::string purpose);
  /// x, of one shape on all ranks -> [ranks, ...]
  ValueId gather_parts(ValueId x);
  /// x, whole along `axis` -> this rank's tokens of it. No message.
  ValueId keep_own_tokens(ValueId x, std::size_t axis, const TokenLayout& layout);
  /// The parts of x along `axis`, one behind the other.
  ValueId take(ValueId x, std::size_t axis, std::span<const ElementRange> ranges);

  /// x_i [B, tokens of this rank, H, D_i] -> [B, tokens of this part of the ring, heads of this rank, sum of D_i]
  ValueId scatter_heads(std::span<const ValueId> xs, const HeadSplit& heads, const TokenLayout& layout);
  /// [B, tokens of this part of the ring, heads of this rank, D] -> [B, tokens of this rank, H, D]
  ValueId gather_heads(ValueId x, const HeadSplit& heads, const TokenLayout& layout);

  /// Sends x [B, tokens, H, D] to the next rank of the ring; what comes from the one before has `tokens`.
  StartedExchange start_ring_shift(ValueId x, std::int64_t tokens);
  ValueId wait(const StartedExchange& exchange);

 private:
  struct HeadExchange;
  HeadExchange plan_heads(std::int64_t batches, std::int64_t width, const HeadSplit& heads, const TokenLayout& layout,
                          bool whole_runs_too) const;
  ExchangePlan new_plan(std::string purpose);
  StartedExchange start(ValueId x, const Shape& received, ExchangePlan plan);

  GraphBuilder& b_;
  const SequenceParallel& how_;
  int next_slot_ = 0;
};

}  // namespace rondo
