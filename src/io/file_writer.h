// A file written piece by piece, every failure told with the system's reason.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace rondo {

/// Owns a file descriptor that is being written. What was written stays where the writer is destroyed before finish().
class FileWriter {
 public:
  /// Creates or truncates the file. `shown` is its name in errors: the final one of a file that is written under
  /// another (default: `path`). Throws FileError.
  explicit FileWriter(const std::filesystem::path& path, std::string shown = "");
  /// Takes over an open descriptor.
  FileWriter(int descriptor, std::string shown) : descriptor_(descriptor), shown_(std::move(shown)) {}
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  int descriptor() const { return descriptor_; }
  /// Writes all bytes. Throws FileError: "<shown>: cannot be written: No space left on device".
  void write(std::span<const std::byte> bytes);
  void write(const void* bytes, std::size_t count) { write({static_cast<const std::byte*>(bytes), count}); }
  /// Waits until the bytes are on the disk. Throws FileError.
  void flush_to_disk();
  /// Closes the file. Throws FileError: some file systems tell only then that there was no room.
  void finish();
  /// Throws FileError with the reason in errno.
  [[noreturn]] void fail() const;

 private:
  int descriptor_;
  std::string shown_;
};

/// Copies a regular file to a new one. Throws FileError, naming the source where it cannot be read and `shown` where
/// the copy cannot be written.
void copy_file(const std::filesystem::path& from, const std::filesystem::path& to, const std::string& shown);

}  // namespace rondo
