#include "backends/packed_cache.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
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
/// What one checksum stands for.
constexpr std::size_t kChunk = std::size_t{1} << 20;
/// Up to so many chunks are checked whenever a file is mapped, of more every kStride-th.
constexpr std::size_t kAlwaysChecked = 4;
constexpr std::size_t kStride = 32;
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

std::vector<std::span<const std::byte>> chunks_of(const std::vector<Tensor>& parts) {
  std::vector<std::span<const std::byte>> chunks;
  for (const Tensor& part : parts) {
    const std::span<const std::byte> bytes(part.as<std::byte>(), part.bytes());
    for (std::size_t at = 0; at < bytes.size(); at += kChunk)
      chunks.push_back(bytes.subspan(at, std::min(kChunk, bytes.size() - at)));
  }
  return chunks;
}

std::string checksums_of(const std::vector<Tensor>& parts) {
  std::string text;
  for (const std::span<const std::byte> chunk : chunks_of(parts)) text += fmt::format("{:016x}", checksum(chunk));
  return text;
}

enum class Check : std::uint8_t { some, all };

void verify(const std::vector<Tensor>& parts, std::string_view checksums, Check check, const fs::path& path) {
  const std::vector<std::span<const std::byte>> chunks = chunks_of(parts);
  constexpr std::size_t kDigits = 16;
  if (checksums.size() != chunks.size() * kDigits)
    throw FileError(fmt::format("{}: has checksums of other parts than it holds", path.string()));
  const std::size_t stride = check == Check::all || chunks.size() <= kAlwaysChecked ? 1 : kStride;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (i % stride != 0 && i + 1 != chunks.size()) continue;
    if (checksums.substr(i * kDigits, kDigits) != fmt::format("{:016x}", checksum(chunks[i])))
      throw FileError(fmt::format("{}: is damaged: megabyte {} is not what was written", path.string(), i));
  }
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

std::string metadata_of(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

std::vector<Tensor> read(const fs::path& path, const std::string& key) {
  const SafetensorsFile file(path);
  if (metadata_of(file, "key") != key)
    throw FileError(fmt::format("{}: holds another weight than its name says", path.string()));
  std::vector<Tensor> parts = parts_of(file, path);
  verify(parts, metadata_of(file, "checksums"), Check::some, path);
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
                      {{"key", key}, {"checksums", checksums_of(parts)}});
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

PackedCacheUse verify_packed_cache(const fs::path& folder,
                                   const std::function<void(const std::string& what)>& damaged) {
  PackedCacheUse use;
  for (const CachedFile& cached : files_in(folder)) {
    ++use.files;
    use.bytes += cached.bytes;
    try {
      const SafetensorsFile file(cached.path);
      verify(parts_of(file, cached.path), metadata_of(file, "checksums"), Check::all, cached.path);
    } catch (const FileError& failure) {
      damaged(failure.what());
      std::error_code error;
      fs::remove(cached.path, error);
      if (error) throw FileError(fmt::format("{}: cannot be removed: {}", cached.path.string(), error.message()));
    }
  }
  return use;
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
