// Tensor cores' instructions as PTX ISA describes them, by what the lanes of a warp hand each other. Copies are done
// when they are waited for, at the latest.
#pragma once

#include <array>
#include <cstring>

#include "cuda_emulation.h"

namespace rondo::cuda {

/// What each of a warp's lanes gave, in their order.
template <typename T>
std::array<T, 32> from_all_lanes(const T& own) {
  static_assert(sizeof(T) <= kLaneRoom);
  std::memcpy(lane_room(static_cast<int>(threadIdx.x % 32)), &own, sizeof own);
  wait_for_warp();
  std::array<T, 32> all;
  for (int lane = 0; lane < 32; ++lane) std::memcpy(&all[static_cast<std::size_t>(lane)], lane_room(lane), sizeof own);
  wait_for_warp();
  return all;
}

inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto rows = from_all_lanes(row);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned m = 0; m < 4; ++m)
    std::memcpy(&to[m], static_cast<const std::uint16_t*>(rows[m * 8 + lane / 4]) + lane % 4 * 2, sizeof to[m]);
}

inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  const auto rows = from_all_lanes(row);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned m = 0; m < 4; ++m) {
    const auto at = [&](unsigned r) { return static_cast<const std::uint16_t*>(rows[m * 8 + r])[lane / 4]; };
    to[m] = at(lane % 4 * 2) | static_cast<std::uint32_t>(at(lane % 4 * 2 + 1)) << 16;
  }
}

template <typename T>
void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct Fragments {
    std::uint32_t a[4];
    std::uint32_t b[2];
  };
  const auto all = from_all_lanes(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const auto half = [](std::uint32_t pair, unsigned index) {
    return to_float(T{static_cast<std::uint16_t>(pair >> (16 * index))});
  };
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4;  // and 8 further: registers 1 and 3
    const unsigned column = lane % 4 * 2 + i % 2;
    float sum = sums[i];
    for (unsigned k = 0; k < 16; ++k) {
      const std::uint32_t left = all[row * 4 + k % 8 / 2].a[i / 2 + k / 8 * 2];
      const std::uint32_t right = all[column * 4 + k % 8 / 2].b[k / 8];
      sum += half(left, k % 2) * half(right, k % 2);
    }
    sums[i] = sum;
  }
}

inline void begin_copy(void* shared, const void* global, bool there) {
  own_copies().open.push_back({shared, there ? global : nullptr});
}
inline void end_copy_group() {
  own_copies().groups.push_back(std::move(own_copies().open));
  own_copies().open.clear();
}
template <int others>
void wait_for_copies() {
  constexpr std::size_t kBytes = 16;
  auto& groups = own_copies().groups;
  while (groups.size() > others) {
    for (const CopyUnderWay& copy : groups.front()) {
      if (copy.from != nullptr)
        std::memcpy(copy.to, copy.from, kBytes);
      else
        std::memset(copy.to, 0, kBytes);
    }
    groups.pop_front();
  }
}

}  // namespace rondo::cuda
