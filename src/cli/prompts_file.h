// Prompts from a text file.
#pragma once

#include <string>
#include <vector>

namespace rondo::cli {

/// One prompt a line; empty lines and those that begin with # are passed by. Throws FileError, also when none is left.
std::vector<std::string> read_prompts(const std::string& path);

}  // namespace rondo::cli
