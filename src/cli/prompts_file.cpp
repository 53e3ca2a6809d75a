#include "cli/prompts_file.h"

#include <fmt/format.h>

#include <sstream>

#include "io/json_config.h"
#include "rondo/error.h"

namespace rondo::cli {

std::vector<std::string> read_prompts(const std::string& path) {
  std::vector<std::string> prompts;
  std::istringstream text(read_text_file(path));
  for (std::string line; std::getline(text, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty() && line[0] != '#') prompts.push_back(line);
  }
  if (prompts.empty()) throw FileError(fmt::format("{}: holds no prompt; allowed is one a line", path));
  return prompts;
}

}  // namespace rondo::cli
