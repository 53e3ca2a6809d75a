#include "models/tokenizers/tokenizer_config.h"

#include <nlohmann/json.hpp>

namespace rondo {

JsonConfig load_tokenizer_config(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "tokenizer_config.json";
  if (std::filesystem::exists(file)) return JsonConfig::load(file);
  return {nlohmann::json::object(), file.string()};
}

std::int64_t model_max_length(const JsonConfig& config, std::int64_t absent) {
  constexpr double kNoLimit = 1e9;
  if (!config.has("model_max_length") || config.number("model_max_length", std::nullopt) >= kNoLimit) return absent;
  return config.integer("model_max_length", std::nullopt, 2, static_cast<std::int64_t>(kNoLimit));
}

std::string special_token(const JsonConfig& config, std::string_view key, const std::string& absent) {
  const auto found = config.object().find(key);
  std::string token = found != config.object().end() && found->is_object()
                          ? JsonConfig(*found, config.source()).text("content", std::nullopt)
                          : config.text(key, absent);
  if (token.empty()) config.refuse(key, "allowed is a token that is not empty");
  return token;
}

}  // namespace rondo
