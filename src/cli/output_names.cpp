#include "cli/output_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "cli/values.h"

namespace rondo::cli {
namespace {

std::string replace_all(std::string text, std::string_view from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace

void check_picture_name(const std::string& pattern) {
  if (std::filesystem::path(pattern).stem().empty()) {
    throw UsageError(fmt::format("--output: '{}' is given; allowed is a file name, or - for stdout", pattern));
  }
  std::string extension = std::filesystem::path(pattern).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  constexpr std::array kOthers{".gif", ".bmp", ".tif", ".tiff", ".avif", ".jxl", ".heic"};
  if (std::find(kOthers.begin(), kOthers.end(), extension) != kOthers.end()) {
    throw UsageError(fmt::format("--output: '{}' is given; pictures are written as .png, .jpg and .webp", pattern));
  }
}

std::vector<std::string> output_names(const std::string& pattern, std::uint64_t first_seed, std::int64_t count) {
  if (pattern == "-") {
    if (count > 1) throw UsageError(fmt::format("--output: - (stdout) takes one picture; {} are asked for", count));
    return {pattern};
  }
  check_picture_name(pattern);
  std::string full = pattern;
  if (count > 1 && pattern.find("{seed}") == std::string::npos && pattern.find("{index}") == std::string::npos) {
    const std::filesystem::path path(pattern);
    full = (path.parent_path() / (path.stem().string() + "-{index}" + path.extension().string())).string();
  }
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::string seed = std::to_string(first_seed + static_cast<std::uint64_t>(i));
    names.push_back(replace_all(replace_all(full, "{seed}", seed), "{index}", std::to_string(i)));
  }
  return names;
}

}  // namespace rondo::cli
