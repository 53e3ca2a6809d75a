// Numbers that attention in 8 bits and its kernels share; nothing else, as files of one CPU level include it.
#pragma once

#include <cstdint>

#include "quantization/e4m3_limits.h"

namespace rondo {

constexpr std::int64_t kKeysOfBlock = 128;  // int8: that share a value's scale, and among which weights are relative
constexpr int kInt8Limit = 127;             // keys, values and queries
constexpr int kWeightLimit = 255;           // weights
// Below VNNI two products are added in 16 bits, which saturate: 127 x 127 twice is the most that fits, and queries are
// made unsigned by adding 64.
constexpr int kNarrowQueryLimit = 63;
constexpr int kNarrowWeightLimit = 127;

constexpr std::int64_t kE4m3Queries = 128;  // rows that share a scale
constexpr std::int64_t kE4m3Keys = 256;     // the same of keys and values
constexpr std::int64_t kE4m3Columns = 128;
constexpr int kE4m3Bits = 4;  // significant ones

}  // namespace rondo
