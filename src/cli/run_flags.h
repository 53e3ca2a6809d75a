// Flags that more than one verb takes, defined once.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/values.h"
#include "rondo/text_to_image.h"

namespace rondo::cli {

/// Adds a flag that takes one value; given twice, the last wins.
CLI::Option* add_value(CLI::App& app, const std::string& flag, std::optional<std::string>& value,
                       const std::string& help);

/// Which layers are quantised and how, apart from the format.
class QuantizationFlags {
 public:
  void add_to(CLI::App& app);
  /// Throws UsageError.
  LinearQuantizationOptions options() const;

 private:
  std::optional<std::string> exclude_;
  std::vector<std::string> rules_;
  std::optional<std::string> group_;
  std::optional<std::string> rotation_;
};

/// Whether and how attention's operands are quantised while it runs.
class KvCacheFlags {
 public:
  void add_to(CLI::App& app);
  /// Throws UsageError.
  KvCacheOptions options() const;

 private:
  std::optional<std::string> dtype_;
  std::optional<std::string> rotation_;
  std::optional<bool> smooth_k_;
};

/// Everything that changes how a model runs: dtype, threads, attention, fusion, tiling, quantisation, passes.
class RunFlags {
 public:
  void add_to(CLI::App& app);
  /// `stored_dtype` stands in where --dtype is not given. Throws UsageError.
  PipelineOptions options(const std::optional<std::string>& stored_dtype = std::nullopt) const;

 private:
  std::optional<std::string> config_;  // read before the flags are, by with_config_file()
  std::optional<std::string> device_;
  bool allow_cpu_fallback_ = false;
  std::optional<std::string> dtype_;
  std::optional<std::string> threads_;
  std::optional<std::string> attention_backend_;
  std::optional<std::string> tune_;
  std::optional<std::string> cfg_fusion_;
  std::optional<std::string> vae_tiling_;
  std::optional<std::string> layerwise_offload_;
  std::optional<std::string> cuda_graph_;
  std::optional<std::string> lanes_;
  std::optional<std::string> memory_limit_;
  std::optional<std::string> weight_cache_;
  std::optional<std::string> weight_cache_limit_;
  std::optional<std::string> quantize_;
  QuantizationFlags quantization_;
  KvCacheFlags kv_cache_;
  std::optional<std::string> kv_cache_skip_steps_;
  std::optional<std::string> kv_cache_skip_layers_;
  std::optional<std::string> kv_cache_fallback_;
  std::optional<std::string> quantize_skip_steps_;
  std::optional<bool> compile_;
  std::optional<std::string> passes_;
  std::vector<std::string> without_passes_;
};

}  // namespace rondo::cli
