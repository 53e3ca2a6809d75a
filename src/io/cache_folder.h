// The folder in the user's home where measured results stay, and a lock between processes.
#pragma once

#include <filesystem>
#include <optional>

namespace rondo {

/// RONDO_CACHE_DIR, else $XDG_CACHE_HOME/rondo, else $HOME/.cache/rondo; nothing when none is set. It need not exist.
std::optional<std::filesystem::path> cache_folder();

/// Holds an exclusive lock on a file (created when it is missing, with its folder) until destroyed. Waits two seconds
/// at most for other processes. Throws FileError.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace rondo
