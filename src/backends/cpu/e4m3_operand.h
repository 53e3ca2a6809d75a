// One of attention's operands in e4m3: the rows of every sequence and head, and what they are multiples of.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/attention_kernel.h"

namespace rondo::cpu {

/// Rows stand [sequence][head][row][column] without gaps, scales [sequence][head][row / height][column / kE4m3Columns].
class E4m3Operand {
 public:
  /// `height`: rows that share a scale.
  E4m3Operand(std::int64_t heads, std::int64_t width, std::int64_t height);

  /// `lengths` are the sequences' rows. Returns how many bytes it takes; null `memory` asks for that only.
  std::size_t lay_out(std::span<const std::int64_t> lengths, std::byte* memory);

  const std::uint8_t* rows(std::int64_t sequence, std::int64_t head) const {
    return rows_ + first_row(sequence, head) * width_;
  }
  const float* scales(std::int64_t sequence, std::int64_t head) const { return scales_ + first_scale(sequence, head); }
  std::int64_t scales_of_head(std::int64_t sequence) const {
    return blocks_of(lengths_[static_cast<std::size_t>(sequence)]) * column_blocks_;
  }

  /// What is quantised at once.
  struct Block {
    std::int64_t sequence;
    std::int64_t head;
    std::int64_t first;
    std::int64_t count;
  };
  std::vector<Block> blocks() const;
  std::uint8_t* rows_of(const Block& block) const {
    return rows_ + (first_row(block.sequence, block.head) + block.first) * width_;
  }
  float* scales_of(const Block& block) const {
    return scales_ + first_scale(block.sequence, block.head) + block.first / height_ * column_blocks_;
  }

 private:
  std::int64_t blocks_of(std::int64_t rows) const { return (rows + height_ - 1) / height_; }
  std::int64_t first_row(std::int64_t sequence, std::int64_t head) const;
  std::int64_t first_scale(std::int64_t sequence, std::int64_t head) const;

  std::int64_t heads_;
  std::int64_t width_;
  std::int64_t height_;
  std::int64_t column_blocks_;
  std::vector<std::int64_t> lengths_;
  // Of one head, up to each sequence.
  std::vector<std::int64_t> rows_before_;
  std::vector<std::int64_t> blocks_before_;
  std::uint8_t* rows_ = nullptr;
  float* scales_ = nullptr;
};

}  // namespace rondo::cpu
