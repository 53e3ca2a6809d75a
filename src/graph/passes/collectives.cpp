#include "graph/passes/collectives.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "ops/layout.h"
#include "parallel/communicator.h"

namespace rondo {
namespace {

std::int64_t count(const ElementRange& range) { return range.end - range.begin; }

/// Elements behind the first two axes.
std::int64_t token_elements(const Shape& shape) {
  std::int64_t elements = 1;
  for (std::size_t axis = 2; axis < shape.rank(); ++axis) elements *= shape[axis];
  return elements;
}

Tensor taken(const Tensor& x, std::size_t axis, std::span<const ElementRange> ranges) {
  Shape shape = x.shape();
  shape[axis] = 0;
  for (const ElementRange& range : ranges) shape[axis] += count(range);
  Tensor result = Tensor::empty(shape, x.dtype());
  std::int64_t outer = 1;
  for (std::size_t a = 0; a < axis; ++a) outer *= shape[a];
  std::int64_t begin = 0;
  for (const ElementRange& range : ranges) {
    // Constants are dense: what lies behind the axis is one run.
    const std::size_t row = static_cast<std::size_t>(x.strides()[axis]) * dtype_size(x.dtype());
    for (std::int64_t o = 0; o < outer; ++o) {
      std::memcpy(result.as<std::byte>() + static_cast<std::size_t>(o * shape[axis] + begin) * row,
                  x.as<std::byte>() + static_cast<std::size_t>(o * x.shape()[axis] + range.begin) * row,
                  static_cast<std::size_t>(count(range)) * row);
    }
    begin += count(range);
  }
  return result;
}

}  // namespace

ExchangePlan CollectiveBuilder::new_plan(std::string purpose) {
  // Tags may come again: messages of one tag keep their order.
  return {std::move(purpose), next_slot_++ % Communicator::kMostTag, {}, {}, {}};
}

StartedExchange CollectiveBuilder::start(ValueId x, const Shape& received, ExchangePlan plan) {
  // Flat, so that messages are runs of it; a view where x is dense.
  const ValueId flat = b_.apply<ReshapeOp>({x}, Shape{b_.shape(x).elements()});
  const int slot = plan.slot;
  TensorType type = b_.type(x);
  type.shape = received;
  return {b_.apply<ExchangeOp>({flat}, std::move(plan), type), flat, slot};
}

ValueId CollectiveBuilder::wait(const StartedExchange& exchange) {
  return b_.apply<WaitOp>({exchange.received, exchange.sent}, exchange.slot);
}

ValueId CollectiveBuilder::take(ValueId x, std::size_t axis, std::span<const ElementRange> ranges) {
  if (ranges.size() == 1 && count(ranges[0]) == b_.shape(x)[axis]) return x;
  if (const Tensor* constant = b_.constant_of(x); constant != nullptr && constant->is_dense())
    return b_.constant(taken(*constant, axis, ranges));
  std::vector<ValueId> parts;
  for (const ElementRange& range : ranges) {
    if (count(range) > 0 || ranges.size() == 1) parts.push_back(b_.apply<SliceOp>({x}, axis, range.begin, range.end));
  }
  if (parts.empty()) return b_.apply<SliceOp>({x}, axis, 0, 0);
  return parts.size() == 1 ? parts[0] : b_.add(std::make_shared<const ConcatOp>(axis), parts);
}

ValueId CollectiveBuilder::keep_own_tokens(ValueId x, std::size_t axis, const TokenLayout& layout) {
  return take(x, axis, layout.positions_of(how_.rank(), how_.rank() + 1));
}

ValueId CollectiveBuilder::gather_tokens(ValueId x, const TokenLayout& layout) {
  return fetch_tokens(x, layout,
                      std::vector<ElementRange>(static_cast<std::size_t>(how_.ranks()), {0, layout.tokens()}),
                      "gather tokens");
}

ValueId CollectiveBuilder::fetch_tokens(ValueId x, const TokenLayout& layout, std::span<const ElementRange> wanted,
                                        std::string purpose) {
  const Shape& own = b_.shape(x);
  const std::int64_t row = token_elements(own);
  const int rank = how_.rank();
  const ElementRange& mine = wanted[static_cast<std::size_t>(rank)];
  ExchangePlan plan = new_plan(std::move(purpose));
  Shape received = own;
  received[1] = count(mine);
  // What `to` wants of a run that begins at `before`, of what `from` holds of it.
  const auto part = [&](const TokenRun& run, std::int64_t before, int from, int to) {
    const ElementRange held = run.held_by(from, from + 1);
    const ElementRange& want = wanted[static_cast<std::size_t>(to)];
    const std::int64_t begin = std::max(before + held.begin, want.begin);
    return ElementRange{begin, std::max(begin, std::min(before + held.end, want.end))};
  };
  for (std::int64_t batch = 0; batch < own[0]; ++batch) {
    std::int64_t here = batch * own[1];  // where this rank's tokens of the run lie
    std::int64_t before = 0;
    for (const TokenRun& run : layout.runs) {
      const ElementRange held = run.held_by(rank, rank + 1);
      const auto source = [&](std::int64_t token) { return (here + token - before - held.begin) * row; };
      const auto target = [&](std::int64_t token) { return (batch * received[1] + token - mine.begin) * row; };
      const ElementRange kept = part(run, before, rank, rank);
      plan.copies.push_back({source(kept.begin), target(kept.begin), count(kept) * row});
      for (int peer = 0; peer < how_.ranks() && run.is_split(); ++peer) {
        if (peer == rank) continue;
        const ElementRange sent = part(run, before, rank, peer);
        const ElementRange comes = part(run, before, peer, rank);
        if (count(sent) > 0) plan.sends.push_back({peer, {source(sent.begin), source(sent.end)}});
        if (count(comes) > 0) plan.receives.push_back({peer, {target(comes.begin), target(comes.end)}});
      }
      here += count(held);
      before += run.tokens();
    }
  }
  std::erase_if(plan.copies, [](const ExchangePlan::Copy& copy) { return copy.elements == 0; });
  return wait(start(x, received, std::move(plan)));
}

ValueId CollectiveBuilder::gather_parts(ValueId x) {
  Shape whole = b_.shape(x);
  const std::int64_t part = whole.elements();
  const Shape one = whole;
  whole = Shape{how_.ranks()};
  for (const std::int64_t extent : one) whole.push_back(extent);
  ExchangePlan plan = new_plan("gather parts");
  const auto place = [&](int rank) { return ElementRange{rank * part, (rank + 1) * part}; };
  for (int peer = 0; peer < how_.ranks(); ++peer) {
    if (peer == how_.rank()) {
      plan.copies.push_back({0, place(peer).begin, part});
    } else {
      plan.sends.push_back({peer, {0, part}});
      plan.receives.push_back({peer, place(peer)});
    }
  }
  return wait(start(x, whole, std::move(plan)));
}

/// What a rank and each peer of its Ulysses group exchange: this rank's tokens with the peer's heads, packed, for the
/// peer's tokens with this rank's heads, which lie together in [B, tokens of this part of the ring, heads of this rank,
/// width].
struct CollectiveBuilder::HeadExchange {
  struct Piece {
    int peer;
    ElementRange packed;
    ElementRange together;
  };
  std::vector<HeadBlock> blocks;  // of the packed ones
  std::vector<Piece> pieces;
  Shape together;
  std::int64_t packed = 0;
};

CollectiveBuilder::HeadExchange CollectiveBuilder::plan_heads(std::int64_t batches, std::int64_t width,
                                                              const HeadSplit& heads, const TokenLayout& layout,
                                                              bool whole_runs_too) const {
  const int own = how_.place.ulysses;
  const int first = how_.first_of_ring(how_.place.ring);
  const int last = first + how_.degrees.ulysses;
  HeadExchange exchange;
  exchange.together = {batches, layout.tokens_of(first, last), heads.count(own), width};
  const std::int64_t row = exchange.together[2] * width;
  for (int peer = 0; peer < how_.degrees.ulysses; ++peer) {
    std::int64_t here = 0;   // tokens of this rank before the run
    std::int64_t there = 0;  // of this part of the ring
    for (const TokenRun& run : layout.runs) {
      const ElementRange part = run.held_by(first, last);
      const ElementRange mine = run.held_by(first + own, first + own + 1);
      const ElementRange theirs = run.held_by(first + peer, first + peer + 1);
      for (std::int64_t batch = 0; batch < batches && (run.is_split() || peer == own || whole_runs_too); ++batch) {
        exchange.blocks.push_back({batch, {here, here + count(mine)}, heads.of(peer)});
        const std::int64_t end = exchange.packed + count(mine) * heads.count(peer) * width;
        const std::int64_t begin = (batch * exchange.together[1] + there + theirs.begin - part.begin) * row;
        exchange.pieces.push_back({first + peer, {exchange.packed, end}, {begin, begin + count(theirs) * row}});
        exchange.packed = end;
      }
      here += count(mine);
      there += count(part);
    }
  }
  return exchange;
}

ValueId CollectiveBuilder::scatter_heads(std::span<const ValueId> xs, const HeadSplit& heads,
                                         const TokenLayout& layout) {
  std::int64_t width = 0;
  for (const ValueId x : xs) width += b_.shape(x)[3];
  HeadExchange exchange = plan_heads(b_.shape(xs[0])[0], width, heads, layout, false);
  ExchangePlan plan = new_plan("scatter heads");
  for (const HeadExchange::Piece& piece : exchange.pieces) {
    if (piece.peer == how_.rank()) {
      plan.copies.push_back({piece.packed.begin, piece.together.begin, count(piece.packed)});
    } else {
      plan.sends.push_back({piece.peer, piece.packed});
      plan.receives.push_back({piece.peer, piece.together});
    }
  }
  return wait(start(b_.add(std::make_shared<const PackHeadsOp>(std::move(exchange.blocks), heads.repeats), xs),
                    exchange.together, std::move(plan)));
}

ValueId CollectiveBuilder::gather_heads(ValueId x, const HeadSplit& heads, const TokenLayout& layout) {
  const Shape shape = b_.shape(x);
  HeadExchange exchange = plan_heads(shape[0], shape[3], heads, layout, true);
  ExchangePlan plan = new_plan("gather heads");
  for (const HeadExchange::Piece& piece : exchange.pieces) {
    if (piece.peer == how_.rank()) {
      plan.copies.push_back({piece.together.begin, piece.packed.begin, count(piece.packed)});
    } else {
      plan.sends.push_back({piece.peer, piece.together});
      plan.receives.push_back({piece.peer, piece.packed});
    }
  }
  const ValueId packed = wait(start(x, Shape{exchange.packed}, std::move(plan)));
  const Shape gathered{shape[0], layout.tokens_of(how_.rank(), how_.rank() + 1), heads.bounds.back(), shape[3]};
  return b_.apply<UnpackHeadsOp>({packed}, std::move(exchange.blocks), gathered);
}

StartedExchange CollectiveBuilder::start_ring_shift(ValueId x, std::int64_t tokens) {
  const int ranks = how_.degrees.ring;
  const Shape& s = b_.shape(x);
  const Shape received{s[0], tokens, s[2], s[3]};
  ExchangePlan plan = new_plan("ring");
  const auto at = [&](int ring) { return how_.first_of_ring((ring + ranks) % ranks) + how_.place.ulysses; };
  plan.sends.push_back({at(how_.place.ring + 1), {0, s.elements()}});
  plan.receives.push_back({at(how_.place.ring - 1), {0, received.elements()}});
  return start(x, received, std::move(plan));
}

}  // namespace rondo
