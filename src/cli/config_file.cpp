#include "cli/config_file.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>
#include <set>

#include "cli/values.h"
#include "core/text.h"
#include "io/json_config.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20;

/// The value of --config, the last when it is given twice.
std::optional<std::string> config_path(const std::vector<std::string>& arguments) {
  constexpr std::string_view kFlag = "--config";
  std::optional<std::string> path;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == kFlag && i + 1 < arguments.size()) path = arguments[i + 1];
    if (argument.starts_with("--config=")) path = argument.substr(kFlag.size() + 1);
  }
  return path;
}

bool is_given(const std::vector<std::string>& arguments, const std::string& flag) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [&](const std::string& argument) { return argument == flag || argument.starts_with(flag + "="); });
}

/// All long flags of a verb and of the verbs under it.
void collect_flags(const CLI::App& app, std::set<std::string>& flags) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.insert(name);
  }
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) collect_flags(*verb, flags);
}

YAML::Node load(const std::string& path) {
  try {
    const YAML::Node root = YAML::Load(read_text_file(path, kMostBytes));
    if (root.IsNull()) return YAML::Node(YAML::NodeType::Map);
    if (!root.IsMap()) throw FileError(fmt::format("{}: is no map of flag: value", path));
    return root;
  } catch (const YAML::Exception& error) {
    throw FileError(fmt::format("{}: line {}: {}", path, error.mark.line + 1, printable(error.msg)));
  }
}

std::vector<std::string> values_of(const std::string& path, const std::string& key, const YAML::Node& node) {
  if (node.IsScalar()) return {node.Scalar()};
  std::vector<std::string> values;
  for (const YAML::Node& element : node) {
    if (!node.IsSequence() || !element.IsScalar()) break;
    values.push_back(element.Scalar());
  }
  if (values.empty() || values.size() != node.size())
    throw FileError(fmt::format("{}: '{}' is neither a value nor a list of values", path, printable(key)));
  return values;
}

/// The arguments that a key of the file stands for.
std::vector<std::string> arguments_of(const std::string& path, const std::string& key, const YAML::Node& node,
                                      const CLI::Option& option) {
  std::vector<std::string> arguments;
  const bool is_switch = option.get_items_expected_max() == 0;
  for (const std::string& value : values_of(path, key, node)) {
    if (!is_switch) {
      arguments.push_back(fmt::format("--{}={}", key, value));
      continue;
    }
    if (value != "true" && value != "false")
      throw FileError(fmt::format("{}: '{}' is '{}'; allowed are true and false", path, key, printable(value)));
    const bool has_opposite = option.check_lname("no-" + key);
    if (value == "true") arguments.push_back("--" + key);
    if (value == "false" && has_opposite) arguments.push_back("--no-" + key);
  }
  return arguments;
}

}  // namespace

std::vector<std::string> with_config_file(const CLI::App& app, std::vector<std::string> arguments,
                                          std::map<std::string, std::string>& from_file) {
  const std::optional<std::string> path = config_path(arguments);
  if (!path) return arguments;
  const CLI::App* verb = &app;
  std::size_t behind_verb = 0;
  for (; behind_verb < arguments.size(); ++behind_verb) {
    const auto next =
        verb->get_subcommands([&](const CLI::App* under) { return under->get_name() == arguments[behind_verb]; });
    if (next.empty()) break;
    verb = next.front();
  }
  std::set<std::string> known;
  collect_flags(app, known);
  std::vector<std::string> added;
  for (const auto& entry : load(*path)) {
    const auto key = entry.first.as<std::string>();
    if (!known.contains(key) || key == "config")
      throw FileError(
          fmt::format("{}: '{}' is no flag; allowed are rondo's long flags, without dashes", *path, printable(key)));
    const CLI::Option* option = verb->get_option_no_throw("--" + key);
    const bool overridden =
        option != nullptr && std::any_of(option->get_lnames().begin(), option->get_lnames().end(),
                                         [&](const std::string& name) { return is_given(arguments, "--" + name); });
    if (option == nullptr || overridden) continue;
    for (std::string& argument : arguments_of(*path, key, entry.second, *option)) added.push_back(std::move(argument));
    from_file[key] = *path;
  }
  arguments.insert(arguments.begin() + static_cast<std::ptrdiff_t>(behind_verb), added.begin(), added.end());
  return arguments;
}

}  // namespace rondo::cli
