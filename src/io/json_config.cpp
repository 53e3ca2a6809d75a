#include "io/json_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/text.h"
#include "io/lfs_pointer.h"
#include "rondo/error.h"

namespace rondo {

using nlohmann::json;

namespace {

constexpr int kMaxDepth = 64;

/// Python's three numbers that JSON has no words for. They pass through the parser as strings behind a mark, a
/// character of Unicode's private area, which also stands where a config is written again.
constexpr std::array<std::pair<std::string_view, double>, 3> kNotFinite{
    {{"NaN", std::numeric_limits<double>::quiet_NaN()},
     {"Infinity", std::numeric_limits<double>::infinity()},
     {"-Infinity", -std::numeric_limits<double>::infinity()}}};
constexpr std::string_view kMark = "\xee\x80\x80rondo:";

std::string_view name_of_not_finite(double value) {
  return std::isnan(value) ? kNotFinite[0].first : value > 0 ? kNotFinite[1].first : kNotFinite[2].first;
}

/// `text` with Python's numbers as marked strings; nothing where it holds none.
std::optional<std::string> mark_not_finite(std::string_view text) {
  std::string marked;
  bool any = false;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size();) {
    const auto* const found = std::find_if(kNotFinite.begin(), kNotFinite.end(), [&](const auto& number) {
      return !quoted && text.substr(i, number.first.size()) == number.first;
    });
    if (found != kNotFinite.end()) {
      marked += fmt::format("\"{}{}\"", kMark, found->first);
      i += found->first.size();
      any = true;
      continue;
    }
    if (quoted && text[i] == '\\' && i + 1 < text.size())
      marked += text[i++];
    else if (text[i] == '"')
      quoted = !quoted;
    marked += text[i++];
  }
  return any ? std::optional(std::move(marked)) : std::nullopt;
}

/// Numbers that are not finite as marked strings.
json with_marks(const json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>()))
    return fmt::format("{}{}", kMark, name_of_not_finite(value.get<double>()));
  json copy = value;
  if (value.is_structured()) {
    for (auto& element : copy) element = with_marks(element);
  }
  return copy;
}

/// Watches the parser's events for what the grammar allows and we do not, and takes marks off.
class ParseGuard {
 public:
  explicit ParseGuard(const std::string& source) : source_(source) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) throw FileError(fmt::format("{}: JSON is nested deeper than {} levels", source_, kMaxDepth));
    if (event == json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys_.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw FileError(fmt::format("{}: JSON holds the key '{}' twice", source_, printable(key)));
      }
    } else if (event == json::parse_event_t::value && parsed.is_string()) {
      const std::string_view value = parsed.get_ref<const std::string&>();
      for (const auto& [name, number] : kNotFinite) {
        if (!value.starts_with(kMark) || value.substr(kMark.size()) != name) continue;
        parsed = number;
        break;
      }
    }
    return true;
  }

 private:
  const std::string& source_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

json parse_json(std::string_view text, const std::string& source) {
  try {
    return json::parse(text.begin(), text.end(), ParseGuard(source));
  } catch (const json::parse_error& error) {
    if (const auto marked = mark_not_finite(text)) {
      try {
        return json::parse(*marked, ParseGuard(source));
      } catch (const json::exception&) {  // NOLINT(bugprone-empty-catch): the first error is the one that is told
      }
    }
    throw FileError(fmt::format("{}: is not valid JSON (at byte {} of {})", source, error.byte, text.size()));
  } catch (const json::exception&) {  // a number beyond the range of double
    throw FileError(fmt::format("{}: JSON holds a number that is out of range", source));
  }
}

std::string dump_config(const json& config) {
  const std::string marked = with_marks(config).dump(2, ' ', false, json::error_handler_t::replace);
  std::string text;
  std::size_t done = 0;
  const std::string begin = fmt::format("\"{}", kMark);
  for (std::size_t at = marked.find(begin); at != std::string::npos; at = marked.find(begin, done)) {
    const std::size_t name = at + begin.size();
    const std::size_t end = marked.find('"', name);
    text.append(marked, done, at - done);
    text.append(marked, name, end - name);
    done = end + 1;
  }
  return text.append(marked, done);
}

std::string read_text_file(const std::filesystem::path& path, std::size_t limit) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) throw FileError(fmt::format("{}: does not exist", path.string()));
  if (!std::filesystem::is_regular_file(status))
    throw FileError(fmt::format("{}: is not a regular file", path.string()));
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > limit) {
    throw FileError(fmt::format("{}: has {} bytes; at most {} are allowed", path.string(), size, limit));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(size, '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file) throw FileError(fmt::format("{}: cannot be read", path.string()));
  refuse_lfs_pointer(path.string(), text);
  return text;
}

JsonConfig JsonConfig::load(const std::filesystem::path& path) {
  return {parse_json(read_text_file(path), path.string()), path.string()};
}

JsonConfig::JsonConfig(const json& object, std::string source)
    : json_(std::make_shared<const json>(object)), source_(std::move(source)) {
  if (!json_->is_object())
    throw FileError(fmt::format("{}: holds a JSON {}; an object is needed", source_, json_->type_name()));
}

const json* JsonConfig::find(std::string_view key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

bool JsonConfig::has(std::string_view key) const { return find(key) != nullptr; }

void JsonConfig::refuse(std::string_view key, const std::string& allowed) const {
  const json* value = find(key);
  const std::string given = value == nullptr ? "absent"
                            : value->is_number_float() && !std::isfinite(value->get<double>())
                                ? std::string(name_of_not_finite(value->get<double>()))
                                : printable(value->dump(-1, ' ', false, json::error_handler_t::replace));
  throw FileError(fmt::format("{}: '{}' is {}; {}", source_, key, given, allowed));
}

const json& JsonConfig::require(std::string_view key, const std::string& allowed) const {
  const json* value = find(key);
  if (value == nullptr) refuse(key, allowed);
  return *value;
}

std::int64_t JsonConfig::integer(std::string_view key, std::optional<std::int64_t> absent, std::int64_t least,
                                 std::int64_t most) const {
  if (absent && !has(key)) return *absent;
  const std::string allowed = fmt::format("allowed is an integer from {} to {}", least, most);
  const json& value = require(key, allowed);
  if (!value.is_number_integer()) refuse(key, allowed);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    refuse(key, allowed);
  const auto number = value.get<std::int64_t>();
  if (number < least || number > most) refuse(key, allowed);
  return number;
}

double JsonConfig::number(std::string_view key, std::optional<double> absent, double least, double most) const {
  if (absent && !has(key)) return *absent;
  const std::string allowed = fmt::format("allowed is a number from {} to {}", least, most);
  const json& value = require(key, allowed);
  if (!value.is_number()) refuse(key, allowed);
  const auto number = value.get<double>();
  if (!(number >= least && number <= most)) refuse(key, allowed);
  return number;
}

bool JsonConfig::boolean(std::string_view key, bool absent) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) refuse(key, "allowed are true and false");
  return value->get<bool>();
}

std::string JsonConfig::text(std::string_view key, std::optional<std::string> absent) const {
  if (absent && !has(key)) return *absent;
  const json& value = require(key, "allowed is a string");
  if (!value.is_string()) refuse(key, "allowed is a string");
  return value.get<std::string>();
}

std::vector<std::int64_t> JsonConfig::integers(std::string_view key, const std::vector<std::int64_t>& absent,
                                               std::int64_t least, std::int64_t most) const {
  const json* value = find(key);
  if (value == nullptr) return absent;
  const std::string allowed = fmt::format("allowed is a list of 1 to 64 integers from {} to {}", least, most);
  if (!value->is_array() || value->empty() || value->size() > 64) refuse(key, allowed);
  std::vector<std::int64_t> numbers;
  for (const json& element : *value) {
    if (!element.is_number_integer()) refuse(key, allowed);
    const auto number = element.get<std::int64_t>();
    if (number < least || number > most) refuse(key, allowed);
    numbers.push_back(number);
  }
  return numbers;
}

std::vector<std::string> JsonConfig::texts(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return {};
  const std::string allowed = "allowed is a list of strings";
  if (!value->is_array()) refuse(key, allowed);
  std::vector<std::string> result;
  for (const json& element : *value) {
    if (!element.is_string()) refuse(key, allowed);
    result.push_back(element.get<std::string>());
  }
  return result;
}

}  // namespace rondo
