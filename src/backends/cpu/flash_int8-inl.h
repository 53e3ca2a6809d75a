// Memory of flash attention in 8-bit integers. Everything here has internal linkage, as files of one CPU level include
// it too.
#pragma once

#include "attention/quantization_limits.h"
#include "backends/cpu/flash_scratch-inl.h"

namespace rondo::cpu {
namespace {

constexpr std::int64_t kInt8Group = 4;     // elements of one lane's dot product
constexpr std::int64_t kInt8Rows = 8;      // keys, or columns of values, whose sums may be kept in registers
constexpr std::int64_t kInt8Queries = 32;  // the most of a block

/// One block of keys and values.
struct PackedInt8 {
  PackedInt8(std::byte* base, std::int64_t head_dim, std::int64_t value_dim)
      : width(round_up(head_dim, kInt8Group)), value_width(round_up(value_dim, kInt8Rows)) {
    MemoryParts parts(base);
    parts.take(keys, kKeysOfBlock * width);
    parts.take(values, kKeysOfBlock * value_width);
    parts.take(zeros, kKeysOfBlock);
    parts.take(key_scales, kKeysOfBlock);
    parts.take(value_scales, value_width);
    bytes = parts.bytes();
  }
  std::int64_t width;
  std::int64_t value_width;
  std::int8_t* keys;    // [key][d]
  std::int8_t* values;  // [key / 4][column][4 keys]
  std::int32_t* zeros;  // what a key's sums begin with: minus what is added to queries, times the sum of its elements
  float* key_scales;
  float* value_scales;
  std::int64_t bytes;
};

/// What a call works on.
struct Int8Scratch {
  Int8Scratch(std::byte* base, std::int64_t head_dim, std::int64_t value_dim)
      : width(round_up(head_dim, kInt8Group)), value_width(round_up(value_dim, kInt8Queries / 2)) {
    MemoryParts parts(base);
    parts.take(narrow, width * kInt8Queries);
    parts.take(queries, width * kInt8Queries);
    parts.take(scores, kKeysOfBlock * kInt8Queries);
    parts.take(mask, kKeysOfBlock * kInt8Queries);
    parts.take(weights, kKeysOfBlock * kInt8Queries);
    parts.take(sums, value_width * kInt8Queries);
    parts.take(rows, kInt8Queries / 2 * (value_width > kKeysOfBlock ? value_width : kKeysOfBlock));
    parts.take(factor, kInt8Queries);
    parts.take(center, kInt8Queries);
    parts.take(total, kInt8Queries);
    parts.take(used, kInt8Queries);
    bytes = parts.bytes();
  }
  std::int64_t width;
  std::int64_t value_width;
  std::int8_t* narrow;    // [queries][d]
  std::uint8_t* queries;  // [d / 4][queries][4]
  float* scores;          // [keys][queries]
  float* mask;            // likewise
  std::uint8_t* weights;  // [key / 4][queries][4 keys]
  float* sums;            // [value_width][queries]
  float* rows;            // rows on their way into lanes or out of them
  float* factor;          // what a query's scores are multiplied by (base 2)
  float* center;          // the largest score so far
  float* total;           // sum of exact weights
  float* used;            // sum of rounded ones
  std::int64_t bytes;
};

}  // namespace
}  // namespace rondo::cpu
