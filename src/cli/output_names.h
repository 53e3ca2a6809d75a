// Where pictures go.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rondo::cli {

/// One name a picture from a pattern with {seed} and {index}; several pictures to a pattern with neither get -0, -1,
/// ... before the extension. "-" (stdout) takes one picture only. Throws UsageError, also for a picture format that is
/// not written.
std::vector<std::string> output_names(const std::string& pattern, std::uint64_t first_seed, std::int64_t count);

/// Throws UsageError for a name that no picture can have: empty, a folder's, or with another format's extension.
void check_picture_name(const std::string& name);

}  // namespace rondo::cli
