// How a sequence's tokens lie on the ranks that share it: runs of tokens, each either whole on every rank or split.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ops/exchange.h"
#include "parallel/parallel_layout.h"

namespace rondo {

/// `count` in `parts`, as even as can be: where each part begins, and the end.
std::vector<std::int64_t> even_bounds(std::int64_t count, int parts);

struct TokenRun {
  /// Where each rank's tokens begin, and the end: one part for each rank, or a single one that every rank holds.
  std::vector<std::int64_t> bounds;
  /// The graph's input that it stems from; a number for people and for choosing, no part of the layout.
  int source = 0;

  bool is_split() const { return bounds.size() > 2; }
  std::int64_t tokens() const { return bounds.back(); }
  /// What ranks [first, last) of the sequence hold of it; all of it where it is whole.
  ElementRange held_by(int first, int last) const;
  bool operator==(const TokenRun& other) const { return bounds == other.bounds; }
};

/// Runs one behind the other.
struct TokenLayout {
  std::vector<TokenRun> runs;

  bool operator==(const TokenLayout&) const = default;
  /// Of the whole sequence.
  std::int64_t tokens() const;
  /// On ranks [first, last) together, whole runs counted once.
  std::int64_t tokens_of(int first, int last) const;
  /// Their positions in the whole sequence, run by run.
  std::vector<ElementRange> positions_of(int first, int last) const;
  /// "[0-40-80][0-128-256]"
  std::string to_string() const;
};

/// ", int8 on the wire"; empty for none but the usual.
std::string_view wire_text(RingWire wire);

/// Tokens of one picture on the ranks of ring x ulysses.
struct SequenceParallel {
  ParallelDegrees degrees;
  ParallelPlace place;
  /// Whether sequences that do not lead to the graph's output (text) are whole on every rank.
  bool replicates_text = false;
  RingWire ring_wire = RingWire::as_computed;

  bool active() const { return degrees.sequence() > 1; }
  int ranks() const { return degrees.sequence(); }
  int rank() const { return place.sequence(degrees); }
  /// The ranks of one part of the ring: [first, first + ulysses).
  int first_of_ring(int ring) const { return ring * degrees.ulysses; }
  std::string to_string() const;
};

}  // namespace rondo
