#include "cli/suggestions.h"

#include <algorithm>
#include <vector>

namespace rondo::cli {
namespace {

std::string_view without_dashes(std::string_view name) {
  name.remove_prefix(std::min(name.find_first_not_of('-'), name.size()));
  return name;
}

/// Insertions, removals, replacements and exchanges of neighbours that turn one text into the other (Damerau, 1964,
/// each place once).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> edits(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        edits[i][j] = i + j;
        continue;
      }
      const bool same = a[i - 1] == b[j - 1];
      edits[i][j] = std::min({edits[i - 1][j - 1] + (same ? 0 : 1), edits[i - 1][j] + 1, edits[i][j - 1] + 1});
      const bool exchanged = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (exchanged) edits[i][j] = std::min(edits[i][j], edits[i - 2][j - 2] + 1);
    }
  }
  return edits[a.size()][b.size()];
}

/// "cfg" stands so in "true-cfg-scale".
bool has_part(std::string_view name, std::string_view part) {
  const std::string framed = "-" + std::string(name) + "-";
  return framed.find("-" + std::string(part) + "-") != std::string::npos;
}

}  // namespace

std::string nearest_name(std::string_view given, std::span<const std::string> known) {
  constexpr std::size_t kLongest = 64;
  const std::string_view wanted = without_dashes(given);
  if (wanted.empty() || wanted.size() > kLongest) return "";
  std::string nearest;
  std::size_t least = std::max<std::size_t>(1, wanted.size() / 3) + 1;
  for (const std::string& name : known) {
    const std::size_t distance = edit_distance(wanted, without_dashes(name));
    if (distance >= least) continue;
    least = distance;
    nearest = name;
  }
  if (!nearest.empty()) return nearest;
  for (const std::string& name : known) {
    if (has_part(without_dashes(name), wanted) && (nearest.empty() || name.size() < nearest.size())) nearest = name;
  }
  return nearest;
}

}  // namespace rondo::cli
