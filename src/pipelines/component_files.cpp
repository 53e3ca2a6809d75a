#include "pipelines/component_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

struct ComponentClasses {
  std::string_view name;
  std::vector<std::string_view> classes;
};

const std::array<ComponentClasses, 7>& flux_components() {
  static const std::array<ComponentClasses, 7> components{{
      {"scheduler", {"FlowMatchEulerDiscreteScheduler"}},
      {"text_encoder", {"CLIPTextModel"}},
      {"text_encoder_2", {"T5EncoderModel"}},
      {"tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}},
      {"tokenizer_2", {"T5Tokenizer", "T5TokenizerFast"}},
      {"transformer", {"FluxTransformer2DModel"}},
      {"vae", {"AutoencoderKL"}},
  }};
  return components;
}

/// "owner/name", which is no path that somebody would write by mistake.
bool is_hub_name(const std::string& text) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
  const std::size_t slash = text.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < text.size() &&
         text.find('/', slash + 1) == std::string::npos && text.front() != '.' &&
         text.find_first_not_of(kAllowed) == std::string::npos;
}

}  // namespace

JsonConfig DiffusersFolder::load_checked(const std::string& component_name, const char* file) const {
  JsonConfig config = JsonConfig::load(component(component_name) / file);
  for (const ComponentClasses& known : flux_components()) {
    if (known.name != component_name || !config.has("_class_name")) continue;
    const std::string given = config.text("_class_name", std::nullopt);
    if (std::find(known.classes.begin(), known.classes.end(), given) == known.classes.end()) {
      config.refuse("_class_name", fmt::format("known are {}", fmt::join(known.classes, ", ")));
    }
  }
  return config;
}

DiffusersFolder DiffusersFolder::open(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) {
    const std::string name = path.string();
    if (is_hub_name(name)) {
      throw FileError(
          fmt::format("{}: is a name on a hub, and no folder here. A model is a folder on disk, in diffusers layout "
                      "(model_index.json and its subfolders): fetch it first, with hf download {} --local-dir DIR, and "
                      "give DIR",
                      name, name));
    }
    throw FileError(fmt::format("{}: is no folder; a model is a folder in diffusers layout", name));
  }
  const JsonConfig index = JsonConfig::load(path / "model_index.json");
  if (index.text("_class_name", std::nullopt) != "FluxPipeline") index.refuse("_class_name", "known is FluxPipeline");
  for (const ComponentClasses& component : flux_components()) {
    const auto& [name, classes] = component;
    const std::string allowed = fmt::format("known are {}", fmt::join(classes, ", "));
    const auto entry = index.object().find(name);
    const bool named =
        entry != index.object().end() && entry->is_array() && entry->size() == 2 && (*entry)[1].is_string();
    if (!named) index.refuse(name, allowed);
    if (std::find(classes.begin(), classes.end(), (*entry)[1].get<std::string>()) == classes.end())
      index.refuse(name, allowed);
    if (!std::filesystem::is_directory(path / name)) {
      throw FileError(fmt::format("{}: is missing; model_index.json names it", (path / name).string()));
    }
  }
  for (const auto& item : index.object().items()) {
    const std::string& name = item.key();
    const nlohmann::json& entry = item.value();
    const bool known = name.starts_with("_") || std::any_of(flux_components().begin(), flux_components().end(),
                                                            [&](const ComponentClasses& c) { return c.name == name; });
    // diffusers writes [null, null] for the optional components that a pipeline does without.
    const bool absent = entry.is_null() || (entry.is_array() && entry.size() == 2 && entry[1].is_null());
    if (!known && !absent) {
      throw FileError(
          fmt::format("{}: component '{}' is not supported by FluxPipeline here", index.source(), printable(name)));
    }
  }
  return DiffusersFolder(path);
}

}  // namespace rondo
