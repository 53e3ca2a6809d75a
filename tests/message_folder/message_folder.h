// Messages between ranks, be they threads or processes, as files of a folder: what the tests' HCCL and NCCL send by.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <thread>

#include <unistd.h>
#include <cstdlib>

namespace message_folder {

namespace fs = std::filesystem;

/// A new folder; empty where none can be made. Without TMPDIR in memory: a disk's file system takes longer for these
/// small files than all the rest.
inline std::string make() {
  const fs::path memory = "/dev/shm";
  const bool in_memory = std::getenv("TMPDIR") == nullptr && fs::is_directory(memory);
  std::string name = ((in_memory ? memory : fs::temp_directory_path()) / "messages.XXXXXX").string();
  return mkdtemp(name.data()) == nullptr ? std::string() : name;
}

/// Nobody finds it half written.
inline void write(const fs::path& path, std::span<const std::byte> bytes) {
  const fs::path unfinished = path.string() + ".part";
  std::ofstream(unfinished, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  fs::rename(unfinished, path);
}

/// The file's, which is removed; false where they are not as many.
inline bool take(const fs::path& path, std::span<std::byte> bytes) {
  if (fs::file_size(path) != bytes.size()) return false;
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  fs::remove(path);
  return true;
}

inline std::string read_text(const fs::path& path) {
  std::ifstream stream(path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline fs::path message(const fs::path& folder, int from, int to, std::uint64_t number) {
  return folder / ("message." + std::to_string(from) + "." + std::to_string(to) + "." + std::to_string(number));
}
inline fs::path rank_file(const fs::path& folder, int rank) { return folder / ("rank." + std::to_string(rank)); }

/// Looks until it is there; false when the time is over. `sleep` is how it waits before it looks again.
inline bool await(
    const std::function<bool()>& there, std::chrono::seconds timeout,
    const std::function<void(std::chrono::microseconds)>& sleep = [](std::chrono::microseconds time) {
      std::this_thread::sleep_for(time);
    }) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!there()) {
    if (std::chrono::steady_clock::now() > end) return false;
    sleep(std::chrono::microseconds(200));
  }
  return true;
}

/// Whether each rank has a file of this kind.
inline bool has_all(const fs::path& folder, const char* kind, int ranks) {
  for (int r = 0; r < ranks; ++r) {
    if (!fs::exists(folder / (kind + std::to_string(r)))) return false;
  }
  return true;
}

/// Comes as `rank` of `ranks`, and waits for the others; false when one does not come. `who` is what each says of
/// itself.
inline bool meet(const fs::path& folder, int rank, int ranks, const std::string& who, std::chrono::seconds timeout) {
  write(rank_file(folder, rank), std::as_bytes(std::span(who)));
  return await([&] { return has_all(folder, "rank.", ranks); }, timeout);
}

/// Whoever is last tidies up.
inline void leave(const fs::path& folder, int rank, int ranks) {
  write(folder / ("gone." + std::to_string(rank)), {});
  std::error_code error;
  if (has_all(folder, "gone.", ranks)) fs::remove_all(folder, error);
}

}  // namespace message_folder
