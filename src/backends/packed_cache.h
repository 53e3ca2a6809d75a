// Packed weights on disk: what one process packs, others map, so that all of a machine's processes hold one copy.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "ops/operator.h"
#include "rondo/tensor.h"

namespace rondo {

/// A folder of safetensors files, one a packed weight, named by the hash of what it was made from and how; the whole
/// key and checksums of its bytes stand in its metadata. Files are written under another name and renamed. When
/// they take more than `limit` bytes, those that were not used for the longest time go; processes that have them mapped
/// keep them. Whatever goes wrong with a file is a warning, and the weight is packed anew. Safe to use from several
/// threads and processes.
class PackedWeightCache {
 public:
  /// Makes the folder. Throws FileError where that fails.
  PackedWeightCache(std::filesystem::path folder, std::uint64_t limit);

  /// What was kept under this key, mapped; nothing when there is none, or not of these types. Checks slices of
  /// its bytes, of which every half of a part has one: all would cost more than mapping saves.
  std::optional<std::vector<Tensor>> load(const std::string& source, const std::string& key,
                                          const std::vector<TensorType>& types) const;
  /// Keeps `parts` and returns them as mapped from the file, so that the given ones can go; nothing where they are not
  /// worth a file or cannot be kept.
  std::optional<std::vector<Tensor>> keep(const std::string& source, const std::string& key,
                                          const std::vector<Tensor>& parts);

 private:
  std::filesystem::path file_of(const std::string& source, const std::string& key) const;
  void evict(const std::filesystem::path& newest);

  std::filesystem::path folder_;
  std::uint64_t limit_;
  std::mutex mutex_;
  std::uint64_t bytes_ = 0;  // in the folder, as this process last saw it
};

/// What lies in a cache folder.
struct PackedCacheUse {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
};
PackedCacheUse packed_cache_use(const std::filesystem::path& folder);
/// Reads every packed weight of a cache folder whole and removes those whose bytes are not what was written, and those
/// of an older version, which nobody reads. `tell` is called with what is wrong with a file and what was done. Returns
/// how many were damaged. Throws FileError where one cannot be removed.
std::uint64_t verify_packed_cache(const std::filesystem::path& folder,
                                  const std::function<void(const std::string& what)>& tell);
/// Removes every packed weight from a cache folder and returns what there was. Throws FileError.
PackedCacheUse clear_packed_cache(const std::filesystem::path& folder);

}  // namespace rondo
