#include "backends/cpu/e4m3_operand.h"

#include <algorithm>

#include "attention/quantization_limits.h"
#include "backends/cpu/flash_scratch-inl.h"

namespace rondo::cpu {

E4m3Operand::E4m3Operand(std::int64_t heads, std::int64_t width, std::int64_t height)
    : heads_(heads), width_(width), height_(height), column_blocks_((width + kE4m3Columns - 1) / kE4m3Columns) {}

std::size_t E4m3Operand::lay_out(std::span<const std::int64_t> lengths, std::byte* memory) {
  lengths_.assign(lengths.begin(), lengths.end());
  rows_before_ = {0};
  blocks_before_ = {0};
  for (const std::int64_t rows : lengths_) {
    rows_before_.push_back(rows_before_.back() + rows);
    blocks_before_.push_back(blocks_before_.back() + blocks_of(rows));
  }
  MemoryParts parts(memory);
  parts.take(rows_, heads_ * rows_before_.back() * width_);
  parts.take(scales_, heads_ * blocks_before_.back() * column_blocks_);
  return static_cast<std::size_t>(parts.bytes());
}

std::vector<E4m3Operand::Block> E4m3Operand::blocks() const {
  std::vector<Block> blocks;
  for (std::size_t s = 0; s < lengths_.size(); ++s) {
    for (std::int64_t head = 0; head < heads_; ++head) {
      for (std::int64_t first = 0; first < lengths_[s]; first += height_)
        blocks.push_back({static_cast<std::int64_t>(s), head, first, std::min(height_, lengths_[s] - first)});
    }
  }
  return blocks;
}

std::int64_t E4m3Operand::first_row(std::int64_t sequence, std::int64_t head) const {
  const auto s = static_cast<std::size_t>(sequence);
  return rows_before_[s] * heads_ + head * lengths_[s];
}

std::int64_t E4m3Operand::first_scale(std::int64_t sequence, std::int64_t head) const {
  const auto s = static_cast<std::size_t>(sequence);
  return (blocks_before_[s] * heads_ + head * blocks_of(lengths_[s])) * column_blocks_;
}

}  // namespace rondo::cpu
