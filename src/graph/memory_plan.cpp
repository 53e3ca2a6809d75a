#include "graph/memory_plan.h"

#include <algorithm>
#include <numeric>

namespace rondo {

MemoryPlan plan_memory(std::span<const BufferLife> buffers) {
  constexpr std::size_t kAlignment = 64;
  const auto padded = [](std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; };
  std::vector<std::size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return buffers[a].bytes > buffers[b].bytes; });

  MemoryPlan plan;
  plan.offsets.resize(buffers.size());
  std::vector<std::size_t> placed;  // by offset
  for (const std::size_t index : order) {
    const BufferLife& life = buffers[index];
    const std::size_t bytes = padded(life.bytes);
    std::size_t offset = 0;
    for (const std::size_t other : placed) {
      const BufferLife& theirs = buffers[other];
      if (theirs.last < life.first || life.last < theirs.first) continue;
      if (offset + bytes <= plan.offsets[other]) break;
      offset = std::max(offset, plan.offsets[other] + padded(theirs.bytes));
    }
    plan.offsets[index] = offset;
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset,
                                   [&](std::size_t value, std::size_t other) { return value < plan.offsets[other]; }),
                  index);
    plan.arena_bytes = std::max(plan.arena_bytes, offset + bytes);
    plan.naive_bytes += bytes;
  }
  return plan;
}

}  // namespace rondo
