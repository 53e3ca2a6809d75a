#include "cli/model_folder.h"

#include <array>
#include <filesystem>

#include "cli/values.h"
#include "core/env.h"

namespace rondo::cli {

std::string choose_model_folder(const std::optional<std::string>& given) {
  if (given) return *given;
  if (const auto from_environment = env_value("RONDO_MODEL")) return *from_environment;
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const std::array candidates{here / "models/emoji", here.parent_path() / "share/rondo/models/emoji"};
  for (const auto& candidate : candidates) {
    if (std::filesystem::is_directory(candidate, error)) return candidate.string();
  }
  throw UsageError("--model: is not given and the bundled model is not installed; give a folder in diffusers layout");
}

}  // namespace rondo::cli
