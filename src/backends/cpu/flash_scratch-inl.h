// How the flash kernels lay out memory. Everything here has internal linkage, as files of one CPU level include it too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rondo::cpu {
namespace {

constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Parts of a piece of memory, each at a multiple of 64 bytes; or only how much they take, where `base` is null.
class MemoryParts {
 public:
  explicit MemoryParts(std::byte* base) : base_(base) {}

  template <typename T>
  void take(T*& part, std::int64_t count) {
    part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::int64_t bytes_ = 0;
};

}  // namespace
}  // namespace rondo::cpu
