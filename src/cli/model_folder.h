// Which model a command runs when it is told none.
#pragma once

#include <optional>
#include <string>

namespace rondo::cli {

/// --model, else RONDO_MODEL, else the bundled model: beside the command in a build tree, in share/rondo/models once
/// installed. Throws UsageError when there is none.
std::string choose_model_folder(const std::optional<std::string>& given);

}  // namespace rondo::cli
