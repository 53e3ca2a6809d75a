// What e4m3 and its scales can hold; nothing else, as files of one CPU level include it.
#pragma once

namespace rondo {

constexpr float kE4m3Limit = 448.0F;       // what a scale's largest element becomes
constexpr float kLeastMagnitude = 1e-35F;  // what is smaller counts as 0: the inverse of its scale would overflow

}  // namespace rondo
