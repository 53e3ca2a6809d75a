#include "graph/passes/parallel_attention.h"

#include <algorithm>
#include <array>
#include <limits>

#include "attention/merge_attention_op.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/wire_rows.h"
#include "rondo/error.h"

namespace rondo {
namespace {

std::int64_t count(std::span<const ElementRange> ranges) {
  std::int64_t sum = 0;
  for (const ElementRange& range : ranges) sum += range.end - range.begin;
  return sum;
}

std::vector<std::int64_t> positions(std::span<const ElementRange> ranges) {
  std::vector<std::int64_t> all;
  for (const ElementRange& range : ranges) {
    for (std::int64_t p = range.begin; p < range.end; ++p) all.push_back(p);
  }
  return all;
}

ElementRange overlap(const ElementRange& a, const ElementRange& b) {
  const std::int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

/// The runs that are split, or those that are whole.
TokenLayout only(const TokenLayout& layout, bool split) {
  TokenLayout result;
  std::copy_if(layout.runs.begin(), layout.runs.end(), std::back_inserter(result.runs),
               [&](const TokenRun& run) { return run.is_split() == split; });
  return result;
}

/// Where those runs stand among what ranks [first, last) hold (`of_whole`: among the whole sequence).
std::vector<ElementRange> places(const TokenLayout& layout, bool split, int first, int last, bool of_whole) {
  std::vector<ElementRange> result;
  std::int64_t before = 0;
  for (const TokenRun& run : layout.runs) {
    const ElementRange held = run.held_by(first, last);
    const std::int64_t begin = of_whole ? before + held.begin : before;
    if (run.is_split() == split) result.push_back({begin, begin + held.end - held.begin});
    before += of_whole ? run.tokens() : held.end - held.begin;
  }
  return result;
}

}  // namespace

HeadSplit split_query_heads(std::int64_t heads, std::int64_t key_heads, int ranks) {
  // Queries go where their key's head is; where there are fewer of those than ranks, each rank gets the key heads that
  // its queries need.
  if (key_heads < ranks) return {even_bounds(heads, ranks)};
  HeadSplit split{even_bounds(key_heads, ranks)};
  for (std::int64_t& bound : split.bounds) bound *= heads / key_heads;
  return split;
}

HeadSplit ParallelAttentionBuilder::split_heads_of_keys(ValueId query, ValueId key) const {
  const std::int64_t heads = b_.shape(query)[2];
  const std::int64_t key_heads = b_.shape(key)[2];
  const int ranks = how_.degrees.ulysses;
  if (key_heads < ranks) return {even_bounds(heads, ranks), heads / key_heads};
  return {even_bounds(key_heads, ranks)};
}

ParallelAttentionBuilder::Keys ParallelAttentionBuilder::split_keys(ValueId joined, std::int64_t head_dim,
                                                                    std::vector<ElementRange> key_positions) {
  const std::int64_t width = b_.shape(joined)[3];
  return {b_.apply<SliceOp>({joined}, 3, 0, head_dim), b_.apply<SliceOp>({joined}, 3, head_dim, width),
          std::move(key_positions)};
}

std::vector<AttentionSequence> ParallelAttentionBuilder::sequences_among(const AttentionOp& op, const Queries& queries,
                                                                         const std::vector<ElementRange>& keys) {
  std::vector<AttentionSequence> among;
  const ElementRange q = queries.positions.front();
  const ElementRange k = keys.front();
  for (const AttentionSequence& s : op.sequences()) {
    const ElementRange own = overlap({s.query_begin, s.query_begin + s.queries}, q);
    const ElementRange seen = overlap({s.key_begin, s.key_begin + s.keys}, k);
    if (own.begin == own.end) continue;
    const std::int64_t ahead = s.keys - s.queries + s.key_begin - s.query_begin;
    const bool hidden = op.causal() && seen.begin > own.end - 1 + ahead;
    const std::int64_t keys_seen = hidden ? 0 : seen.end - seen.begin;
    among.push_back(
        {0, own.begin - q.begin, own.end - own.begin, keys_seen == 0 ? 0 : seen.begin - k.begin, keys_seen});
  }
  return among;
}

ParallelAttentionBuilder::Sight ParallelAttentionBuilder::sight_of_sequences(const AttentionOp& op,
                                                                             const std::vector<ElementRange>& queries,
                                                                             const std::vector<ElementRange>& keys) {
  if (queries.size() != 1 || keys.size() != 1)
    throw Unsupported("attention: packed sequences lie in several runs; allowed is one");
  bool sees_any = false;
  bool all_see_all = true;
  bool all_end_alike = true;  // as the kernels' causality has it
  for (const AttentionSequence& s : op.sequences()) {
    const ElementRange q = overlap({s.query_begin, s.query_begin + s.queries}, queries.front());
    const ElementRange k = overlap({s.key_begin, s.key_begin + s.keys}, keys.front());
    // Within the sequence, query i sees keys up to i + keys - queries.
    const std::int64_t ahead = s.keys - s.queries + s.key_begin - s.query_begin;
    if (q.begin == q.end || k.begin == k.end || (op.causal() && k.begin > q.end - 1 + ahead)) continue;
    sees_any = true;
    all_see_all = all_see_all && (!op.causal() || k.end - 1 <= q.begin + ahead);
    all_end_alike = all_end_alike && k.end == q.end + ahead;
  }
  if (!sees_any) return Sight::none;
  if (all_see_all) return Sight::all;
  if (all_end_alike) return Sight::causal;
  throw Unsupported(
      "attention: causal packed sequences whose queries and keys are cut at different places cannot go round a ring; "
      "allowed are equal ones, or a ring degree of 1");
}

ParallelAttentionBuilder::Sight ParallelAttentionBuilder::sight(const AttentionOp& op, const Queries& queries,
                                                                const std::vector<ElementRange>& keys,
                                                                std::int64_t all_queries) {
  if (count(keys) == 0 || count(queries.positions) == 0) return Sight::none;
  if (!op.sequences().empty()) return sight_of_sequences(op, queries.positions, keys);
  if (!op.causal()) return Sight::all;
  // Query i sees keys up to i + keys - queries.
  const std::int64_t ahead = queries.keys - all_queries;
  const auto filled = [](const ElementRange& range) { return range.begin < range.end; };
  const auto bounds = [&](const std::vector<ElementRange>& ranges) {
    ElementRange hull{std::numeric_limits<std::int64_t>::max(), 0};
    for (const ElementRange& range : ranges) {
      if (filled(range)) hull = {std::min(hull.begin, range.begin), std::max(hull.end, range.end)};
    }
    return hull;
  };
  const ElementRange q = bounds(queries.positions);
  const ElementRange k = bounds(keys);
  if (k.begin > q.end - 1 + ahead) return Sight::none;
  if (k.end - 1 <= q.begin + ahead) return Sight::all;
  const bool one_run = std::count_if(queries.positions.begin(), queries.positions.end(), filled) == 1 &&
                       std::count_if(keys.begin(), keys.end(), filled) == 1;
  // The kernels align both ends.
  if (one_run && k.end == q.end + ahead) return Sight::causal;
  return Sight::masked;
}

std::optional<ValueId> ParallelAttentionBuilder::mask_of(std::optional<ValueId> mask, const Queries& queries,
                                                         const std::vector<ElementRange>& keys, Sight seen,
                                                         std::int64_t all_queries) {
  if (mask) {
    if (b_.shape(*mask)[1] > 1) mask = c_.take(*mask, 1, std::array{queries.heads});
    mask = c_.take(c_.take(*mask, 2, queries.positions), 3, keys);
  }
  if (seen != Sight::masked) return mask;
  const std::vector<std::int64_t> q = positions(queries.positions);
  const std::vector<std::int64_t> k = positions(keys);
  const Shape shape{static_cast<std::int64_t>(q.size()), static_cast<std::int64_t>(k.size())};
  Tensor causal = Tensor::zeros(mask ? shape : Shape{1, 1, shape[0], shape[1]}, DType::f32);
  const std::int64_t ahead = queries.keys - all_queries;
  float* bias = causal.as<float>();
  for (const std::int64_t i : q) {
    for (const std::int64_t j : k) *bias++ = j > i + ahead ? -std::numeric_limits<float>::infinity() : 0.0F;
  }
  const ValueId constant = b_.constant(causal);
  return mask ? b_.apply<BinaryOp>({*mask, constant}, BinaryKind::add) : constant;
}

std::vector<ValueId> ParallelAttentionBuilder::attend(const AttentionOp& op, const Queries& queries, const Keys& keys,
                                                      std::optional<ValueId> mask, std::int64_t all_queries,
                                                      bool partial) {
  Sight seen = sight(op, queries, keys.positions, all_queries);
  if (seen == Sight::none) seen = Sight::masked;  // every key is hidden: the result is 0
  mask = mask_of(mask, queries, keys.positions, seen, all_queries);
  std::vector<ValueId> inputs{queries.query, keys.key, keys.value};
  if (mask) inputs.push_back(*mask);
  std::vector<AttentionSequence> sequences;
  if (!op.sequences().empty()) sequences = sequences_among(op, queries, keys.positions);
  return b_.add_all(std::make_shared<const AttentionOp>(op.scale(), seen == Sight::causal, op.request(), partial,
                                                        std::move(sequences)),
                    inputs);
}

ValueId ParallelAttentionBuilder::no_output(const Queries& queries, const AttentionOperands& local) {
  const Shape& q = b_.shape(queries.query);
  return b_.apply<ReshapeOp>({queries.query}, Shape{q[0], q[1], q[2], b_.shape(local.value)[3]});
}

ValueId ParallelAttentionBuilder::over_whole_keys(const AttentionOp& op, const AttentionOperands& operands,
                                                  const TokenLayout& layout) {
  const std::int64_t keys = b_.shape(operands.key)[1];
  const Queries queries{
      operands.query, layout.positions_of(how_.rank(), how_.rank() + 1), {0, b_.shape(operands.query)[2]}, keys};
  return attend(op, queries, {operands.key, operands.value, {{0, keys}}}, operands.mask, layout.tokens(), false)[0];
}

ParallelAttentionBuilder::WithLse ParallelAttentionBuilder::rounded(const std::vector<ValueId>& state, DType dtype) {
  const bool is_wide = b_.type(state[0]).dtype != dtype;
  return {is_wide ? b_.apply<CastOp>({state[0]}, dtype) : state[0], state[1]};
}

ParallelAttentionBuilder::WithLse ParallelAttentionBuilder::over_shared_tokens(const AttentionOp& op,
                                                                               const AttentionOperands& local,
                                                                               const TokenLayout& layout,
                                                                               bool returns_lse) {
  const int first = how_.first_of_ring(how_.place.ring);
  const int last = first + how_.degrees.ulysses;
  const bool exchanges = how_.degrees.ulysses > 1;
  const HeadSplit heads = split_query_heads(b_.shape(local.query)[2], b_.shape(local.key)[2], how_.degrees.ulysses);
  const Queries queries{exchanges ? c_.scatter_heads(std::array{local.query}, heads, layout) : local.query,
                        layout.positions_of(first, last), heads.of(how_.place.ulysses), layout.tokens()};
  WithLse result{-1, std::nullopt};
  if (how_.degrees.ring > 1) {
    result = ring(op, local, layout, queries, returns_lse);
  } else {
    const HeadSplit key_heads = split_heads_of_keys(local.query, local.key);
    const ValueId joined = c_.scatter_heads(std::array{local.key, local.value}, key_heads, layout);
    const Keys keys = split_keys(joined, b_.shape(local.key)[3], queries.positions);
    if (heads.count(how_.place.ulysses) == 0) {
      result.output = no_output(queries, local);
    } else {
      const std::vector<ValueId> state = attend(op, queries, keys, local.mask, layout.tokens(), returns_lse);
      result = returns_lse ? rounded(state, b_.type(local.query).dtype) : WithLse{state[0], std::nullopt};
    }
  }
  if (exchanges) result.output = c_.gather_heads(result.output, heads, layout);
  return result;
}

ParallelAttentionBuilder::WithLse ParallelAttentionBuilder::ring(const AttentionOp& op, const AttentionOperands& local,
                                                                 const TokenLayout& layout, const Queries& queries,
                                                                 bool returns_lse) {
  const int ranks = how_.degrees.ring;
  const int own = how_.place.ring;
  const std::int64_t head_dim = b_.shape(local.key)[3];
  const DType dtype = b_.type(local.query).dtype;
  const HeadSplit key_heads = split_heads_of_keys(local.query, local.key);
  const auto held_by = [&](int part) {
    const int first = how_.first_of_ring(part);
    return std::pair(first, first + how_.degrees.ulysses);
  };
  /// Keys and values of the runs that are split, or whole, on this part of the ring.
  const auto join = [&](bool split) {
    const auto places_here = places(layout, split, how_.rank(), how_.rank() + 1, false);
    const std::array both{c_.take(local.key, 1, places_here), c_.take(local.value, 1, places_here)};
    if (how_.degrees.ulysses > 1) return c_.scatter_heads(both, key_heads, only(layout, split));
    return b_.add(std::make_shared<const ConcatOp>(3), both);
  };
  const auto positions_on = [&](int part, bool split) {
    const auto [first, last] = held_by(part);
    return places(layout, split, first, last, true);
  };
  const auto is_seen = [&](const std::vector<ElementRange>& keys) {
    return queries.heads.begin < queries.heads.end && sight(op, queries, keys, layout.tokens()) != Sight::none;
  };
  const bool has_whole_runs = !only(layout, false).runs.empty();
  int left = has_whole_runs && is_seen(positions_on(own, false)) ? 1 : 0;
  for (int part = 0; part < ranks; ++part) left += is_seen(positions_on(part, true)) ? 1 : 0;
  const bool partial = left > 1 || returns_lse;
  std::vector<ValueId> sum;  // output and lse of what was seen so far
  const auto attend_to = [&](ValueId joined, std::vector<ElementRange> keys) {
    if (!is_seen(keys)) return;
    --left;
    std::vector<ValueId> state =
        attend(op, queries, split_keys(joined, head_dim, std::move(keys)), local.mask, layout.tokens(), partial);
    if (sum.empty()) {
      sum = std::move(state);
    } else {
      sum = b_.add_all(std::make_shared<const MergeAttentionOp>(left == 0 ? dtype : DType::f32),
                       std::array{sum[0], sum[1], state[0], state[1]});
    }
  };

  ValueId travelling = join(true);
  const std::vector<std::int64_t> row{head_dim, b_.shape(travelling)[3] - head_dim};
  const bool narrows = how_.ring_wire == RingWire::int8 || (how_.ring_wire == RingWire::bf16 && dtype == DType::f32);
  const auto to_wire = [&](ValueId x) {
    if (!narrows) return x;
    if (how_.ring_wire == RingWire::int8) return b_.apply<RowsToWireOp>({x}, row);
    return b_.apply<CastOp>({x}, DType::bf16);
  };
  const auto from_wire = [&](ValueId x) {
    if (!narrows) return x;
    if (how_.ring_wire == RingWire::int8) return b_.apply<RowsFromWireOp>({x}, row, dtype);
    return b_.apply<CastOp>({x}, dtype);
  };
  ValueId on_wire = to_wire(travelling);
  for (int hop = 0; hop < ranks; ++hop) {
    const int part = (own - hop + ranks) % ranks;
    std::optional<StartedExchange> shift;
    if (hop + 1 < ranks) {
      const int next = (part - 1 + ranks) % ranks;
      shift = c_.start_ring_shift(on_wire, count(positions_on(next, true)));
    }
    // What every rank holds never travels: it would be counted once for every part.
    if (hop == 0 && has_whole_runs) attend_to(join(false), positions_on(own, false));
    attend_to(travelling, positions_on(part, true));
    if (!shift) continue;
    on_wire = c_.wait(*shift);
    travelling = from_wire(on_wire);
  }
  if (sum.empty()) return {no_output(queries, local), std::nullopt};  // keys were only passed on
  return partial ? rounded(sum, dtype) : WithLse{sum[0], std::nullopt};
}

}  // namespace rondo
