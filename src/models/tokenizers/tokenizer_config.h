// tokenizer_config.json: what both tokenizers take from it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "io/json_config.h"

namespace rondo {

/// The file's settings, or those of an empty object where a folder has none.
JsonConfig load_tokenizer_config(const std::filesystem::path& folder);

/// model_max_length; `absent` when it is missing or the field's "no limit" (1e30).
std::int64_t model_max_length(const JsonConfig& config, std::int64_t absent);

/// A special token's text: a string, or an object with "content".
std::string special_token(const JsonConfig& config, std::string_view key, const std::string& absent);

}  // namespace rondo
