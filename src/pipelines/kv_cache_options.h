// Who says how attention is quantised: a request, else its pipeline, else the model's own config, else nobody.
#pragma once

#include "attention/kv_cache_policy.h"
#include "io/json_config.h"
#include "rondo/text_to_image.h"

namespace rondo {

/// What a transformer's config.json says under "kv_cache_config": kv_cache_dtype, kv_cache_skip_steps and
/// kv_cache_skip_layers (text, or a list of whole numbers), rotation ("hadamard" or "none"), smooth_k. Throws
/// FileError, also for layers that a transformer of so many does not have.
KvCacheOptions stored_kv_cache_options(const JsonConfig& transformer, std::int64_t layers);

/// `narrow`, and where it says nothing `wide`.
KvCacheOptions layered(const KvCacheOptions& narrow, const KvCacheOptions& wide);

/// Throws InvalidArgument where `options` say how, but neither they nor `wide` that anything is quantised.
void refuse_without_dtype(const KvCacheOptions& options, const KvCacheOptions& wide);

/// Throws InvalidArgument for selectors that cannot be read.
KvCachePolicy kv_cache_policy(const KvCacheOptions& options);

/// All that is set, in a line.
std::string to_text(const KvCacheOptions& options);

}  // namespace rondo
