// Numbers that attention in 8 bits and its kernels share; nothing else, as files of one CPU level include it.
#pragma once

#include <cstdint>

namespace rondo {

constexpr std::int64_t kKeysOfBlock = 128;  // that share a value's scale, and among which weights are relative
constexpr int kInt8Limit = 127;             // queries, keys and values
constexpr int kWeightLimit = 255;           // weights
constexpr float kLeastMagnitude = 4e-37F;   // what is smaller counts as 0: the inverse of its scale would overflow

}  // namespace rondo
