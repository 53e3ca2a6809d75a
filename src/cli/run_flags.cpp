#include "cli/run_flags.h"

#include <fmt/format.h>

#include "attention/attention_request.h"
#include "core/device_name.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

/// auto, on or off as an enumeration whose members stand in this order.
template <typename Mode>
Mode parse_mode(const std::string& flag, const std::string& text) {
  return static_cast<Mode>(one_of(flag, text, {"auto", "on", "off"}));
}

bool is_hadamard(const std::string& flag, const std::string& text) {
  return one_of(flag, text, {"hadamard", "none"}) == 0;
}

}  // namespace

CLI::Option* add_value(CLI::App& app, const std::string& flag, std::optional<std::string>& value,
                       const std::string& help) {
  return app
      .add_option_function<std::string>(
          flag, [&value](const std::string& text) { value = text; }, help)
      ->take_last()
      ->type_name("");
}

void QuantizationFlags::add_to(CLI::App& app) {
  add_value(app, "--quantize-exclude", exclude_,
            "globs of layers that stay as they are, separated by commas (default *norm*,*embed*,proj_out)");
  app.add_option("--quantize-rule", rules_,
                 "GLOB=FORMAT or GLOB=none for the layers that match (may be repeated; the last that matches wins)")
      ->type_name("");
  add_value(app, "--quantize-group", group_, "inputs that share a weight's scale in w4a16: 32, 64 or 128");
  add_value(app, "--quantize-rotation", rotation_,
            "hadamard or none (the default): turn inputs and weights first, so that outliers spread");
}

LinearQuantizationOptions QuantizationFlags::options() const {
  LinearQuantizationOptions options;
  if (exclude_) options.exclude = split_list(*exclude_);
  for (const std::string& rule : rules_) {
    const std::size_t equals = rule.rfind('=');
    if (equals == std::string::npos || equals + 1 == rule.size())
      throw UsageError(fmt::format("--quantize-rule: '{}' is given; allowed is GLOB=FORMAT", printable(rule)));
    options.rules.push_back({rule.substr(0, equals), rule.substr(equals + 1)});
  }
  if (group_) options.group = parse_integer("--quantize-group", *group_);
  options.rotate = is_hadamard("--quantize-rotation", rotation_.value_or("none"));
  return options;
}

void KvCacheFlags::add_to(CLI::App& app) {
  add_value(app, "--kv-cache-dtype", dtype_,
            "how attention's operands are quantised while it runs: auto (not at all, the default), int8 or fp8");
  add_value(app, "--quantize-attention-rotation", rotation_,
            "hadamard (the default) or none: turn queries and keys before they are quantised, so that outliers spread");
  app.add_flag_function(
      "--quantize-attention-smooth-k,!--no-quantize-attention-smooth-k",
      [this](std::int64_t times) { smooth_k_ = times > 0; },
      "whether the mean of all keys is taken from each before they are quantised (default: where a kernel can)");
}

KvCacheOptions KvCacheFlags::options() const {
  KvCacheOptions options;
  try {
    if (dtype_) options.dtype = parse_kv_cache_dtype(*dtype_, "--kv-cache-dtype");
  } catch (const InvalidArgument& error) {
    throw UsageError(error.what());
  }
  if (rotation_) options.rotate = is_hadamard("--quantize-attention-rotation", *rotation_);
  options.smooth_k = smooth_k_;
  return options;
}

void RunFlags::add_to(CLI::App& app) {
  add_value(app, "--config", config_, "YAML file of flag: value, without dashes; flags given beside it win");
  add_value(app, "--device", device_,
            "where models run: auto (default: RONDO_DEVICE, else the best there is), cpu, cuda[:N] or ascend[:N]");
  app.add_flag("--allow-cpu-fallback", allow_cpu_fallback_,
               "run on the CPU what the device has no kernel for, in place of refusing the model");
  add_value(app, "--layerwise-offload", layerwise_offload_,
            "weights that leave the device between their layers' turns: auto (where they do not fit), on (all of the "
            "transformer's and the T5 encoder's) or off");
  add_value(
      app, "--cuda-graph", cuda_graph_,
      "whether a device records a run's steps and does them as one: auto (where it can, the default), on (or the run "
      "fails) or off");
  add_value(app, "--dtype", dtype_,
            "auto, float32 (f32) or bfloat16 (bf16); auto is bfloat16 where the device multiplies it natively");
  add_value(app, "--threads", threads_,
            "threads of one run (default: RONDO_THREADS, else OMP_NUM_THREADS, else physical cores)");
  add_value(app, "--attention-backend", attention_backend_,
            "the transformer's attention kernel, as rondo backends lists them (default: the best)");
  add_value(
      app, "--tune", tune_,
      "attention kernels by measurement: off, cached (default: RONDO_TUNE, else cached) or on (measure what has not "
      "been measured yet)");
  add_value(
      app, "--cfg-fusion", cfg_fusion_,
      "both branches of true classifier-free guidance in one run: auto (where memory allows, the default), on or off");
  add_value(app, "--vae-tiling", vae_tiling_,
            "decode the picture in overlapping tiles: auto (where the whole would not fit, the default), on or off");
  add_value(app, "--lanes", lanes_,
            "independent work side by side, each with its share of the threads: auto (where it is faster), 1 or 2");
  add_value(app, "--memory-limit", memory_limit_,
            "refuse, before any work, what would take more in all, such as 8GB (default: what the system has)");
  add_value(app, "--weight-cache", weight_cache_,
            "folder in which packed weights are kept: the next process starts sooner, and processes share one copy "
            "(default: RONDO_WEIGHT_CACHE, else none)");
  add_value(app, "--weight-cache-limit", weight_cache_limit_,
            "what that folder may take, such as 20GB (the default); what was not used for the longest time goes first");
  add_value(
      app, "--quantize", quantize_,
      "the transformer's linear layers in w8a8 (8 bits), w8a16 or w4a16 (weights only, for memory), fp8 (a scale a "
      "row) or fp8-per-tensor (for GPUs that multiply e4m3), or none (default: as the checkpoint is stored)");
  quantization_.add_to(app);
  kv_cache_.add_to(app);
  add_value(app, "--kv-cache-skip-steps", kv_cache_skip_steps_,
            "steps whose attention stays as it is, such as 0,1,18-19");
  add_value(app, "--kv-cache-skip-layers", kv_cache_skip_layers_,
            "layers of the transformer whose attention stays as it is, such as 0,7; with generate also auto:0.999: "
            "those whose cosine would be less, by a run of its own");
  add_value(app, "--kv-cache-fallback", kv_cache_fallback_,
            "where --kv-cache-dtype is not possible: error (the default) or native");
  add_value(app, "--quantize-skip-steps", quantize_skip_steps_, "steps that run unquantised, such as 0,1,18-19");
  app.add_flag_function(
      "--compile,!--no-compile", [this](std::int64_t times) { compile_ = times > 0; },
      "whether the graph is rewritten before it runs: fused, merged, joined (default: yes; RONDO_DISABLE_COMPILE)");
  add_value(app, "--passes", passes_, "run only these graph passes, separated by commas; empty for none");
  app.add_option("--no-pass", without_passes_, "leave out this graph pass (may be repeated)")->type_name("");
}

PipelineOptions RunFlags::options(const std::optional<std::string>& stored_dtype) const {
  PipelineOptions options;
  options.device = device_.value_or("");
  try {
    if (device_ && *device_ != "auto") parse_device(*device_, "--device");
  } catch (const InvalidArgument& error) {
    throw UsageError(error.what());
  }
  options.allow_cpu_fallback = allow_cpu_fallback_;
  const std::string dtype = dtype_ ? *dtype_ : stored_dtype.value_or("auto");
  if (dtype != "auto") {
    try {
      options.dtype = parse_dtype(dtype);
    } catch (const InvalidArgument&) {
      throw UsageError(fmt::format("--dtype: '{}' is given; allowed are auto, float32 and bfloat16", printable(dtype)));
    }
  }
  if (threads_) {
    const std::int64_t threads = parse_integer("--threads", *threads_);
    if (threads < 1 || threads > 1024)
      throw UsageError(fmt::format("--threads: {} is given; allowed is 1 to 1024", threads));
    options.threads = static_cast<int>(threads);
  }
  options.attention_backend = attention_backend_.value_or("");
  if (tune_) options.tune = parse_tune_mode(*tune_, "--tune");
  if (cfg_fusion_) options.cfg_fusion = parse_mode<CfgFusion>("--cfg-fusion", *cfg_fusion_);
  if (vae_tiling_) options.vae_tiling = parse_mode<VaeTiling>("--vae-tiling", *vae_tiling_);
  if (layerwise_offload_)
    options.layerwise_offload = parse_mode<LayerwiseOffload>("--layerwise-offload", *layerwise_offload_);
  if (cuda_graph_) options.cuda_graph = parse_mode<CudaGraph>("--cuda-graph", *cuda_graph_);
  if (memory_limit_) options.memory_limit = parse_bytes(*memory_limit_, "--memory-limit");
  options.weight_cache = weight_cache_;
  if (weight_cache_limit_) options.weight_cache_limit = parse_bytes(*weight_cache_limit_, "--weight-cache-limit");
  if (lanes_) options.lanes = static_cast<Lanes>(one_of("--lanes", *lanes_, {"auto", "1", "2"}));
  options.quantization = quantization_.options();
  options.quantization.format = quantize_.value_or("");
  options.quantization.skip_steps = quantize_skip_steps_.value_or("");
  options.kv_cache = kv_cache_.options();
  options.kv_cache.skip_steps = kv_cache_skip_steps_;
  options.kv_cache.skip_layers = kv_cache_skip_layers_;
  if (kv_cache_fallback_)
    options.kv_cache.fall_back_to_native = one_of("--kv-cache-fallback", *kv_cache_fallback_, {"error", "native"}) == 1;
  options.compile = compile_;
  if (passes_) options.only_passes = split_list(*passes_);
  if (passes_ && compile_ == false && !options.only_passes->empty())
    throw UsageError("--no-compile: --passes is given too; allowed is one of them");
  options.without_passes = without_passes_;
  return options;
}

}  // namespace rondo::cli
