// Measured choices on disk: one JSON file in the user's cache folder, shared by all processes.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "attention/attention_kernel.h"

namespace rondo {

/// What was the fastest for one problem.
struct TunedAttention {
  std::string kernel;
  AttentionTiling tiling;
  double ms = 0;
  /// Of the kernel that is taken without tuning, with its own tiling.
  double default_ms = 0;
};

using TunedAttentions = std::map<std::string, TunedAttention>;

/// Where it lies; nothing when there is no cache folder.
std::optional<std::filesystem::path> tuning_file_path();

/// What the file holds; nothing when it is missing. A file that is damaged or of another version counts as empty, with
/// one warning in the log.
TunedAttentions read_tuning_file();

/// Adds one entry to what the file holds by now: under a lock, by renaming. Throws FileError.
void write_tuning_entry(const std::string& key, const TunedAttention& tuned);

/// Removes the file. Returns how many entries it held. Throws FileError.
std::size_t clear_tuning_file();

}  // namespace rondo
