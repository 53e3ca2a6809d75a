#include "io/cache_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/env.h"
#include "rondo/error.h"

namespace rondo {

namespace fs = std::filesystem;

std::optional<fs::path> cache_folder() {
  if (const auto folder = env_value("RONDO_CACHE_DIR")) return fs::path(*folder);
  if (const auto folder = env_value("XDG_CACHE_HOME")) return fs::path(*folder) / "rondo";
  if (const auto home = env_value("HOME")) return fs::path(*home) / ".cache" / "rondo";
  return std::nullopt;
}

FileLock::FileLock(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) throw FileError(fmt::format("{}: cannot be created: {}", path.parent_path().string(), error.message()));
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw FileError(fmt::format("{}: cannot be opened: {}", path.string(), std::strerror(errno)));
  using namespace std::chrono_literals;
  const auto deadline = std::chrono::steady_clock::now() + 2s;
  while (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    if ((reason == EINTR || reason == EWOULDBLOCK) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(5ms);
      continue;
    }
    close(descriptor_);
    throw FileError(fmt::format("{}: cannot be locked: {}", path.string(), std::strerror(reason)));
  }
}

FileLock::~FileLock() { close(descriptor_); }

}  // namespace rondo
