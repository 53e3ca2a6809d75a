#include "backends/packed_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>

#include "core/hash.h"
#include "core/log.h"
#include "core/text.h"
#include "io/checksum.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "rondo/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;

/// Part of every key: to be raised when a layout changes without its form's name.
constexpr int kVersion = 2;
/// Smaller ones cost more as a file than they save.
constexpr std::size_t kLeastBytes = 65536;
/// Of a part that is mapped so many slices are checked, evenly spread from its first byte to its last: at least three,
/// so that any half which is not what was written is found.
constexpr std::size_t kSlice = 4096;
constexpr std::size_t kFewestSlices = 3;
constexpr std::size_t kMostSlices = 64;
constexpr std::string_view kSamplesKey = "samples";
constexpr std::string_view kChecksumKey = "checksum";
constexpr std::string_view kExtension = ".packed.safetensors";
constexpr std::string_view kTemporary = ".packed.tmp";

std::string whole_key(const std::string& source, const std::string& key) {
  return fmt::format("rondo packed weight {}; of {}; {}", kVersion, source, key);
}

struct CachedFile {
  fs::path path;
  fs::file_time_type used;
  std::uint64_t bytes;
};

/// The cache's files, those used the longest time ago first, with what processes that were killed left half written
/// more than an hour ago. Others' files are left out.
std::vector<CachedFile> files_in(const fs::path& folder) {
  std::vector<CachedFile> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool half = name.ends_with(kTemporary);
    if (!half && !name.ends_with(kExtension)) continue;
    std::error_code gone;  // another process may remove files meanwhile
    const auto used = fs::last_write_time(it->path(), gone);
    if (half && !gone && used > fs::file_time_type::clock::now() - std::chrono::hours(1)) continue;
    const std::uint64_t bytes = gone ? 0 : fs::file_size(it->path(), gone);
    if (!gone) files.push_back({it->path(), used, bytes});
  }
  std::sort(files.begin(), files.end(), [](const CachedFile& a, const CachedFile& b) { return a.used < b.used; });
  return files;
}

std::uint64_t sum_of(const std::vector<CachedFile>& files) {
  std::uint64_t bytes = 0;
  for (const CachedFile& file : files) bytes += file.bytes;
  return bytes;
}

std::uint64_t checksum_of_samples(std::span<const std::byte> bytes) {
  constexpr std::size_t kBytesEach = std::size_t{1} << 20;
  const std::size_t count = std::clamp(bytes.size() / kBytesEach, kFewestSlices, kMostSlices);
  if (bytes.size() <= count * kSlice) return checksum(bytes);
  std::array<std::uint64_t, kMostSlices> sums{};
  for (std::size_t i = 0; i < count; ++i)
    sums[i] = checksum(bytes.subspan((bytes.size() - kSlice) * i / (count - 1), kSlice));
  return checksum(std::as_bytes(std::span(sums).first(count)));
}

/// A checksum of each part: of its samples, or of all its bytes.
std::string checksums_of(const std::vector<Tensor>& parts, std::string_view key) {
  std::string text;
  for (const Tensor& part : parts) {
    const std::span<const std::byte> bytes(part.as<std::byte>(), part.bytes());
    text += fmt::format("{:016x}", key == kSamplesKey ? checksum_of_samples(bytes) : checksum(bytes));
  }
  return text;
}

std::string metadata_of(const SafetensorsFile& file, std::string_view key) {
  const auto found = file.metadata().find(std::string(key));
  return found == file.metadata().end() ? "" : found->second;
}

void verify(const SafetensorsFile& file, const std::vector<Tensor>& parts, std::string_view key, const fs::path& path) {
  if (metadata_of(file, key) != checksums_of(parts, key))
    throw FileError(fmt::format("{}: is damaged: its bytes are not what was written", path.string()));
}

std::vector<Tensor> parts_of(const SafetensorsFile& file, const fs::path& path) {
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i < file.records().size(); ++i) {
    if (!file.records().contains(std::to_string(i)))
      throw FileError(fmt::format("{}: has no part {}", path.string(), i));
    parts.push_back(file.tensor(std::to_string(i)));
  }
  return parts;
}

std::vector<Tensor> read(const fs::path& path, const std::string& key) {
  const SafetensorsFile file(path);
  if (metadata_of(file, "key") != key)
    throw FileError(fmt::format("{}: holds another weight than its name says", path.string()));
  std::vector<Tensor> parts = parts_of(file, path);
  verify(file, parts, kSamplesKey, path);
  return parts;
}

void write(const fs::path& path, const std::string& key, const std::vector<Tensor>& parts) {
  // Random, as processes in other containers and on other machines may share the folder and have the same number.
  std::random_device random;
  const fs::path temporary = path.parent_path() / fmt::format(".{:08x}{:08x}{}", random(), random(), kTemporary);
  std::vector<TensorToWrite> tensors;
  for (std::size_t i = 0; i < parts.size(); ++i)
    tensors.push_back({std::to_string(i), parts[i].dtype(), parts[i].shape()});
  try {
    fs::create_directories(path.parent_path());
    write_safetensors(temporary, std::move(tensors), [&](const std::string& name) { return parts[std::stoul(name)]; },
                      {{"key", key},
                       {std::string(kSamplesKey), checksums_of(parts, kSamplesKey)},
                       {std::string(kChecksumKey), checksums_of(parts, kChecksumKey)}});
    fs::rename(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
}

}  // namespace

PackedWeightCache::PackedWeightCache(fs::path folder, std::uint64_t limit) : folder_(std::move(folder)), limit_(limit) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error || access(folder_.c_str(), R_OK | W_OK | X_OK) != 0) {
    throw FileError(fmt::format("weight-cache: {}: {}; a folder that can be written is needed", folder_.string(),
                                error ? error.message() : "cannot be written"));
  }
  bytes_ = sum_of(files_in(folder_));
}

fs::path PackedWeightCache::file_of(const std::string& source, const std::string& key) const {
  return folder_ / fmt::format("{:016x}", hash_of(source)) / fmt::format("{:016x}{}", hash_of(key), kExtension);
}

std::optional<std::vector<Tensor>> PackedWeightCache::load(const std::string& source, const std::string& key,
                                                           const std::vector<TensorType>& types) const {
  const fs::path path = file_of(source, key);
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  try {
    std::vector<Tensor> parts = read(path, whole_key(source, key));
    const bool fits = std::equal(parts.begin(), parts.end(), types.begin(), types.end(),
                                 [](const Tensor& part, const TensorType& type) {
                                   return part.shape() == type.shape && part.dtype() == type.dtype;
                                 });
    if (!fits) throw FileError(fmt::format("{}: its parts are not what its name says", path.string()));
    fs::last_write_time(path, fs::file_time_type::clock::now(), error);  // so that it is not the next to go
    return parts;
  } catch (const Error& failure) {
    log(LogLevel::warning, "{} (packed anew)", failure.what());
    return std::nullopt;
  }
}

std::optional<std::vector<Tensor>> PackedWeightCache::keep(const std::string& source, const std::string& key,
                                                           const std::vector<Tensor>& parts) {
  std::size_t bytes = 0;
  for (const Tensor& part : parts) bytes += part.bytes();
  if (bytes < kLeastBytes || bytes > limit_) return std::nullopt;
  const fs::path path = file_of(source, key);
  try {
    write(path, whole_key(source, key), parts);
    const std::lock_guard lock(mutex_);
    bytes_ += bytes;
    if (bytes_ > limit_) evict(path);
    return read(path, whole_key(source, key));
  } catch (const std::exception& failure) {
    log(LogLevel::warning, "weight-cache: {} (the weight stays in memory)", failure.what());
    return std::nullopt;
  }
}

void PackedWeightCache::evict(const fs::path& newest) {
  const std::vector<CachedFile> files = files_in(folder_);
  bytes_ = sum_of(files);
  for (const CachedFile& file : files) {
    if (bytes_ <= limit_) return;
    std::error_code error;
    if (file.path == newest || !fs::remove(file.path, error)) continue;
    bytes_ -= file.bytes;
  }
}

PackedCacheUse packed_cache_use(const fs::path& folder) {
  const std::vector<CachedFile> files = files_in(folder);
  return {files.size(), sum_of(files)};
}

std::uint64_t verify_packed_cache(const fs::path& folder, const std::function<void(const std::string& what)>& tell) {
  std::uint64_t damaged = 0;
  for (const CachedFile& cached : files_in(folder)) {
    const fs::path& path = cached.path;
    if (path.filename().string().ends_with(kTemporary)) continue;
    if (access(path.c_str(), R_OK) != 0) {  // somebody else's in a shared folder, or gone meanwhile
      if (errno != ENOENT) tell(fmt::format("{}: cannot be read: {} (kept)", path.string(), std::strerror(errno)));
      continue;
    }
    std::string wrong;
    try {
      const SafetensorsFile file(path);
      if (metadata_of(file, kChecksumKey).empty()) {
        wrong = fmt::format("{}: is of an older version", path.string());
      } else {
        verify(file, parts_of(file, path), kChecksumKey, path);
      }
    } catch (const FileError& failure) {
      wrong = failure.what();
      ++damaged;
    }
    if (wrong.empty()) continue;
    std::error_code error;
    fs::remove(path, error);
    if (error) throw FileError(fmt::format("{}: cannot be removed: {}", path.string(), error.message()));
    tell(wrong + " (removed)");
  }
  return damaged;
}

PackedCacheUse clear_packed_cache(const fs::path& folder) {
  PackedCacheUse use;
  for (const CachedFile& file : files_in(folder)) {
    std::error_code error;
    fs::remove(file.path, error);
    if (error) throw FileError(fmt::format("{}: cannot be removed: {}", file.path.string(), error.message()));
    fs::remove(file.path.parent_path(), error);  // only where it is empty
    ++use.files;
    use.bytes += file.bytes;
  }
  return use;
}

}  // namespace rondo
