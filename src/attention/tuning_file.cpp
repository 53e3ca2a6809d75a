#include "attention/tuning_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>

#include "core/log.h"
#include "io/cache_folder.h"
#include "io/json_config.h"
#include "io/output_file.h"
#include "rondo/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSchemaVersion = 1;
constexpr std::size_t kLargestFile = std::size_t{16} << 20;
constexpr std::int64_t kLargestTile = 1 << 20;

fs::path lock_path(const fs::path& file) { return file.parent_path() / (file.filename().string() + ".lock"); }

TunedAttention parse_entry(const json& entry, const std::string& source) {
  const JsonConfig config(entry, source);
  TunedAttention tuned;
  tuned.kernel = config.text("kernel", std::nullopt);
  tuned.tiling.key_block = config.integer("key_block", std::nullopt, 0, kLargestTile);
  tuned.tiling.chunk = config.integer("chunk", std::nullopt, 0, kLargestTile);
  const std::string layout = config.text("layout", "");
  for (const AttentionLayout known : {AttentionLayout::bsnd, AttentionLayout::bnsd, AttentionLayout::bsh}) {
    if (layout == attention_layout_name(known)) tuned.tiling.layout = known;
  }
  if (!layout.empty() && !tuned.tiling.layout) config.refuse("layout", "allowed are bsnd, bnsd and bsh");
  tuned.ms = config.number("ms", std::nullopt, 0);
  tuned.default_ms = config.number("default_ms", std::nullopt, 0);
  return tuned;
}

/// What is neither missing nor a plain file could block whoever opens it.
void refuse_special_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_regular_file(status))
    throw FileError(fmt::format("{}: is no regular file", path.string()));
}

TunedAttentions parse(const fs::path& path) {
  refuse_special_file(path);
  const JsonConfig config = JsonConfig(parse_json(read_text_file(path, kLargestFile), path.string()), path.string());
  const std::int64_t version = config.integer("schema_version", std::nullopt, 0, 1 << 30);
  if (version != kSchemaVersion) config.refuse("schema_version", fmt::format("allowed is {}", kSchemaVersion));
  const auto entries = config.object().find("entries");
  if (entries == config.object().end() || !entries->is_object()) config.refuse("entries", "allowed is an object");
  TunedAttentions result;
  for (const auto& [key, entry] : entries->items()) {
    if (!entry.is_object()) throw FileError(fmt::format("{}: an entry is no object", path.string()));
    result.emplace(key, parse_entry(entry, path.string()));
  }
  return result;
}

void write(const fs::path& path, const TunedAttentions& entries) {
  refuse_special_file(path);
  json document{{"schema_version", kSchemaVersion}, {"entries", json::object()}};
  for (const auto& [key, tuned] : entries) {
    document["entries"][key] = {{"kernel", tuned.kernel},
                                {"key_block", tuned.tiling.key_block},
                                {"chunk", tuned.tiling.chunk},
                                {"ms", tuned.ms},
                                {"default_ms", tuned.default_ms}};
    if (tuned.tiling.layout) document["entries"][key]["layout"] = attention_layout_name(*tuned.tiling.layout);
  }
  const std::string text = document.dump(1) + "\n";
  write_output(path.string(), std::as_bytes(std::span(text)));
}

}  // namespace

std::optional<fs::path> tuning_file_path() {
  const auto folder = cache_folder();
  return folder ? std::optional(*folder / "attention-tuning.json") : std::nullopt;
}

TunedAttentions read_tuning_file() {
  const auto path = tuning_file_path();
  std::error_code error;
  if (!path || !fs::exists(*path, error)) return {};
  try {
    return parse(*path);
  } catch (const Error& failure) {
    log(LogLevel::warning, "{} (tuned attention kernels are not used; rondo cache clear removes the file)",
        failure.what());
    return {};
  }
}

void write_tuning_entry(const std::string& key, const TunedAttention& tuned) {
  const auto path = tuning_file_path();
  if (!path) return;
  const FileLock lock(lock_path(*path));
  TunedAttentions entries = read_tuning_file();
  entries[key] = tuned;
  write(*path, entries);
}

std::size_t clear_tuning_file() {
  const auto path = tuning_file_path();
  std::error_code error;
  if (!path || !fs::exists(*path, error)) return 0;
  const FileLock lock(lock_path(*path));
  const std::size_t count = read_tuning_file().size();
  if (!fs::remove(*path, error) && error)
    throw FileError(fmt::format("{}: cannot be removed: {}", path->string(), error.message()));
  return count;
}

}  // namespace rondo
