#include "parallel/token_layout.h"

#include <fmt/format.h>

namespace rondo {

std::vector<std::int64_t> even_bounds(std::int64_t count, int parts) {
  std::vector<std::int64_t> bounds;
  for (int part = 0; part <= parts; ++part) bounds.push_back(count * part / parts);
  return bounds;
}

ElementRange TokenRun::held_by(int first, int last) const {
  if (!is_split()) return {0, tokens()};
  return {bounds[static_cast<std::size_t>(first)], bounds[static_cast<std::size_t>(last)]};
}

std::int64_t TokenLayout::tokens() const {
  std::int64_t count = 0;
  for (const TokenRun& run : runs) count += run.tokens();
  return count;
}

std::int64_t TokenLayout::tokens_of(int first, int last) const {
  std::int64_t count = 0;
  for (const ElementRange& range : positions_of(first, last)) count += range.end - range.begin;
  return count;
}

std::vector<ElementRange> TokenLayout::positions_of(int first, int last) const {
  std::vector<ElementRange> positions;
  std::int64_t before = 0;
  for (const TokenRun& run : runs) {
    const ElementRange held = run.held_by(first, last);
    positions.push_back({before + held.begin, before + held.end});
    before += run.tokens();
  }
  return positions;
}

std::string TokenLayout::to_string() const {
  std::string text;
  for (const TokenRun& run : runs) text += fmt::format("[{}]", fmt::join(run.bounds, "-"));
  return text;
}

std::string_view wire_text(RingWire wire) {
  switch (wire) {
    case RingWire::bf16: return ", bfloat16 on the wire";
    case RingWire::int8: return ", int8 on the wire";
    default: return "";
  }
}

std::string SequenceParallel::to_string() const {
  if (!active()) return "none";
  return fmt::format("ulysses {} of {}, ring {} of {}{}{}", place.ulysses, degrees.ulysses, place.ring, degrees.ring,
                     replicates_text ? ", text on every rank" : "", wire_text(ring_wire));
}

}  // namespace rondo
