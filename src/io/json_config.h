// JSON from files, with checked access: every error names the file, the key, what it holds and what is allowed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rondo {

/// Parses JSON text. Refuses duplicate keys, nesting deeper than 64 and invalid UTF-8. Takes NaN, Infinity and
/// -Infinity, which Python's json module writes, as numbers that no getter of JsonConfig allows. `source` names the
/// text in errors.
nlohmann::json parse_json(std::string_view text, const std::string& source);

/// The text of a config that parse_json() has read, NaN and Infinity as they were.
std::string dump_config(const nlohmann::json& config);

/// Reads a whole file of at most `limit` bytes. Throws FileError.
std::string read_text_file(const std::filesystem::path& path, std::size_t limit = std::size_t{64} << 20);

/// A JSON object with the name of its file.
class JsonConfig {
 public:
  /// Throws FileError when the file cannot be read or holds no JSON object.
  static JsonConfig load(const std::filesystem::path& path);
  JsonConfig(const nlohmann::json& object, std::string source);

  const std::string& source() const { return source_; }
  const nlohmann::json& object() const { return *json_; }

  /// False for an absent key and for null.
  bool has(std::string_view key) const;

  /// The typed getters take the value for an absent (or null) key; without one the key is required.
  std::int64_t integer(std::string_view key, std::optional<std::int64_t> absent, std::int64_t least,
                       std::int64_t most) const;
  /// Finite, within [least, most].
  double number(std::string_view key, std::optional<double> absent, double least = -1e300, double most = 1e300) const;
  bool boolean(std::string_view key, bool absent) const;
  std::string text(std::string_view key, std::optional<std::string> absent) const;
  std::vector<std::int64_t> integers(std::string_view key, const std::vector<std::int64_t>& absent, std::int64_t least,
                                     std::int64_t most) const;
  std::vector<std::string> texts(std::string_view key) const;

  /// Throws FileError: "<file>: '<key>' is <value>; <allowed>".
  [[noreturn]] void refuse(std::string_view key, const std::string& allowed) const;

 private:
  const nlohmann::json* find(std::string_view key) const;
  const nlohmann::json& require(std::string_view key, const std::string& allowed) const;

  std::shared_ptr<const nlohmann::json> json_;
  std::string source_;
};

}  // namespace rondo
