// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace rondo {

class MappedFile {
 public:
  /// Throws FileError when the path is not a readable regular file (symbolic links are followed).
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  /// When the file was last changed, in nanoseconds since 1970.
  std::int64_t changed_ns() const { return changed_ns_; }

  /// Tells the system that the pages inside this part of bytes() are not needed for now; reading them again maps them
  /// anew.
  void release(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
  std::int64_t changed_ns_ = 0;
};

}  // namespace rondo
