// --config FILE.yaml: flags from a file. Its keys are the long flags without dashes; what stands on the command line
// wins.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

namespace rondo::cli {

/// The arguments with those of the file behind the verb's name, so that later ones win. Keys that only other verbs know
/// are passed by; a key that none knows is refused. `from_file` receives the keys that were taken. Throws FileError for
/// a file that cannot be read, UsageError for its values.
std::vector<std::string> with_config_file(const CLI::App& app, std::vector<std::string> arguments,
                                          std::map<std::string, std::string>& from_file);

}  // namespace rondo::cli
