// A diffusers folder: which components it has and of which class.
#pragma once

#include <filesystem>
#include <string>

#include "io/json_config.h"

namespace rondo {

/// model_index.json, checked to name FluxPipeline and, for each component, a class that is known here.
class DiffusersFolder {
 public:
  /// Throws FileError for a folder that is missing, has no model_index.json, or names an unknown class (listing the
  /// known ones).
  static DiffusersFolder open(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path component(const std::string& name) const { return path_ / name; }
  /// The component's config.json.
  JsonConfig config(const std::string& name) const { return load_checked(name, "config.json"); }
  JsonConfig scheduler_config() const { return load_checked("scheduler", "scheduler_config.json"); }

 private:
  /// A config whose _class_name, where it has one, must be a class that is known for this component.
  JsonConfig load_checked(const std::string& component_name, const char* file) const;

  explicit DiffusersFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace rondo
