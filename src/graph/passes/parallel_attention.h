// One attention whose tokens lie on several ranks, as local attentions and collectives: Ulysses (heads for tokens),
// ring (keys and values travel, partial results are merged), and both at once (USP, arXiv 2405.07719).
#pragma once

#include <optional>

#include "attention/attention_op.h"
#include "graph/passes/collectives.h"

namespace rondo {

/// Operands of an attention; `mask` is whole.
struct AttentionOperands {
  ValueId query;
  ValueId key;
  ValueId value;
  std::optional<ValueId> mask;
};

/// Which heads of the queries each rank of a Ulysses group attends with.
HeadSplit split_query_heads(std::int64_t heads, std::int64_t key_heads, int ranks);

class ParallelAttentionBuilder {
 public:
  explicit ParallelAttentionBuilder(CollectiveBuilder& collectives)
      : c_(collectives), b_(collectives.builder()), how_(collectives.how()) {}

  /// A rank's result, with its LSE as the attention left it: of this rank's heads over the tokens of its part of the
  /// ring, [B, heads of this rank, tokens], and none where there are no heads or no tokens.
  struct WithLse {
    ValueId output;
    std::optional<ValueId> lse;
  };

  /// Query, key and value hold this rank's tokens of `layout`; so does the result.
  ValueId over_shared_tokens(const AttentionOp& op, const AttentionOperands& local, const TokenLayout& layout) {
    return over_shared_tokens(op, local, layout, false).output;
  }
  WithLse over_shared_tokens(const AttentionOp& op, const AttentionOperands& local, const TokenLayout& layout,
                             bool returns_lse);
  /// The query holds this rank's tokens of `layout`, keys and values are whole: no message.
  ValueId over_whole_keys(const AttentionOp& op, const AttentionOperands& operands, const TokenLayout& layout);

 private:
  /// Keys and values, and where they stand in the whole sequence.
  struct Keys {
    ValueId key;
    ValueId value;
    std::vector<ElementRange> positions;
  };
  /// What one rank's queries are.
  struct Queries {
    ValueId query;
    std::vector<ElementRange> positions;
    ElementRange heads;
    std::int64_t keys;  // of the whole sequence
  };
  enum class Sight : std::uint8_t { all, none, causal, masked };

  HeadSplit split_heads_of_keys(ValueId query, ValueId key) const;
  Keys split_keys(ValueId joined, std::int64_t head_dim, std::vector<ElementRange> positions);
  /// The result of a rank without queries or heads: empty, as its queries are.
  ValueId no_output(const Queries& queries, const AttentionOperands& local);
  WithLse ring(const AttentionOp& op, const AttentionOperands& local, const TokenLayout& layout, const Queries& queries,
               bool returns_lse);
  /// A result of partial attention, which is float32, in the query's dtype.
  WithLse rounded(const std::vector<ValueId>& state, DType dtype);
  /// What causality, and packed sequences, leave of these keys to these queries.
  static Sight sight(const AttentionOp& op, const Queries& queries, const std::vector<ElementRange>& keys,
                     std::int64_t all_queries);
  static Sight sight_of_sequences(const AttentionOp& op, const std::vector<ElementRange>& queries,
                                  const std::vector<ElementRange>& keys);
  /// What the packed sequences of the whole are among these queries and keys, each one run.
  static std::vector<AttentionSequence> sequences_among(const AttentionOp& op, const Queries& queries,
                                                        const std::vector<ElementRange>& keys);
  /// The mask that these queries and keys see; none where all is visible.
  std::optional<ValueId> mask_of(std::optional<ValueId> mask, const Queries& queries,
                                 const std::vector<ElementRange>& keys, Sight sight, std::int64_t all_queries);
  std::vector<ValueId> attend(const AttentionOp& op, const Queries& queries, const Keys& keys,
                              std::optional<ValueId> mask, std::int64_t all_queries, bool partial);

  CollectiveBuilder& c_;
  GraphBuilder& b_;
  const SequenceParallel& how_;
};

}  // namespace rondo
