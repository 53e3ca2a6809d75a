#include "pipelines/quantize_model.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/threads.h"
#include "io/file_writer.h"
#include "io/safetensors_writer.h"
#include "models/flux_transformer.h"
#include "ops/linear.h"
#include "pipelines/component_files.h"
#include "pipelines/picture_quality.h"
#include "pipelines/smoothing.h"
#include "quantization/quantized_checkpoint.h"
#include "rondo/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kComponent = "transformer";

/// A folder that is being filled beside its final name; removed unless it was given that name.
class PartialFolder {
 public:
  explicit PartialFolder(fs::path target) : target_(std::move(target)) {
    while (!target_.has_filename()) target_ = target_.parent_path();  // "out/"
    if (fs::exists(target_)) throw FileError(fmt::format("{}: exists; a new folder is needed", target_.string()));
    const fs::path parent = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    if (!fs::is_directory(parent))
      throw FileError(fmt::format("{}: the folder {} does not exist", target_.string(), parent.string()));
    std::string name = (parent / ".rondo-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw FileError(fmt::format("{}: cannot be created: {}", target_.string(), std::strerror(errno)));
    path_ = name;
    fs::permissions(path_, fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec |
                               fs::perms::others_read | fs::perms::others_exec);
  }
  ~PartialFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const fs::path& path() const { return path_; }
  /// A file's name in errors: the one that it will have.
  std::string shown(const fs::path& relative) const { return (target_ / relative).string(); }
  void finish() {
    std::error_code error;
    fs::rename(path_, target_, error);
    if (error) throw FileError(fmt::format("{}: cannot be created: {}", target_.string(), error.message()));
    path_.clear();
  }

 private:
  fs::path target_;
  fs::path path_;
};

bool is_weight_file(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
}

/// Everything but the component's weights and config.
void copy_other_files(const fs::path& from, const PartialFolder& to) {
  for (const fs::directory_entry& entry :
       fs::recursive_directory_iterator(from, fs::directory_options::follow_directory_symlink)) {
    const fs::path relative = entry.path().lexically_relative(from);
    const bool replaced = *relative.begin() == kComponent &&
                          (is_weight_file(relative) || relative == fs::path(kComponent) / "config.json");
    if (entry.is_directory()) {
      std::error_code error;
      fs::create_directories(to.path() / relative, error);
      if (error) throw FileError(fmt::format("{}: cannot be created: {}", to.shown(relative), error.message()));
    } else if (!replaced) {
      copy_file(entry.path(), to.path() / relative, to.shown(relative));
    }
  }
}

double relative_error(const Tensor& wanted, const QuantizedWeight& quantized, const LinearQuantization& q) {
  const Tensor plain = wanted.to_float32();
  const Tensor given = dequantize_weight(quantized, q, default_threads());
  const auto count = static_cast<std::size_t>(plain.elements());
  return compare_values({plain.as<float>(), count}, {given.as<float>(), count}).relative_l2;
}

void write_config(const JsonConfig& config, const std::map<std::string, LinearQuantization>& layers,
                  const fs::path& path, const std::string& shown) {
  nlohmann::json written = config.object();
  written["quantization_config"] = describe_quantization(layers);
  const std::string text = dump_config(written) + "\n";
  FileWriter file(path, shown);
  file.write(text.data(), text.size());
  file.finish();
}

/// What goes into the file for each layer, computed when it is its turn.
class LayerTensors {
 public:
  LayerTensors(const WeightSource& weights, const std::map<std::string, LinearQuantization>& layers) {
    for (const std::string& name : weights.names()) {
      const TensorRecord& record = *weights.find(name);
      require_readable(record, name, weights.source());
      const std::string layer = layer_of_weight(name);
      const auto found = layers.find(layer);
      if (found == layers.end() || name != layer + ".weight") {
        add(name, record.dtype, record.shape, [&weights, name] { return weights.tensor(name); });
        continue;
      }
      const LinearQuantization& q = found->second;
      const bool packed = q.format == LinearFormat::w4a16;
      const std::int64_t inputs = record.shape[1];
      const auto quantized = [&weights, name, &q] {
        return quantize_weight(weights.tensor(name), q, default_threads());
      };
      add(stored_weight_name(layer, q.format), stored_dtype(q.format), {record.shape[0], packed ? inputs / 2 : inputs},
          [quantized, packed] {
            const Tensor values = quantized().values;
            return packed ? pack_int4(values) : values;
          });
      add(stored_scale_name(layer), DType::f32, {record.shape[0], q.group == 0 ? 1 : inputs / q.group},
          [quantized] { return quantized().scales; });
      if (q.smooth.defined()) add(stored_smooth_name(layer), DType::f32, {inputs}, [&q] { return q.smooth; });
    }
  }

  void write(const fs::path& path, const std::string& shown, const std::function<void()>& before_each) const {
    const auto make = [&](const std::string& name) {
      before_each();
      return makers_.at(name)();
    };
    write_safetensors(path, tensors_, make, {{"format", "pt"}}, shown);
  }
  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const TensorToWrite& tensor : tensors_)
      sum += static_cast<std::uint64_t>(tensor.shape.elements()) * dtype_size(tensor.dtype);
    return sum;
  }

 private:
  void add(const std::string& name, DType dtype, const Shape& shape, std::function<Tensor()> make) {
    if (!makers_.emplace(name, std::move(make)).second)
      throw FileError(fmt::format("{}: the model has a tensor of that name already", name));
    tensors_.push_back({name, dtype, shape});
  }

  std::vector<TensorToWrite> tensors_;
  std::map<std::string, std::function<Tensor()>> makers_;
};

}  // namespace

QuantizeModelReport quantize_model(const std::string& folder, const std::string& output,
                                   const QuantizeModelOptions& options) {
  const auto check_cancel = [&] {
    if (options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed))
      throw Cancelled("quantize: cancelled");
  };
  const auto stage = [&](const std::string& name) {
    if (options.on_stage) options.on_stage(name);
  };
  const DiffusersFolder model = DiffusersFolder::open(folder);
  const JsonConfig config = model.config(kComponent);
  if (config.has("quantization_config"))
    throw Unsupported(fmt::format("{}: is quantised already; the unquantised model is needed", config.source()));
  const Checkpoint weights = Checkpoint::open(model.component(kComponent));
  const Graph graph = build_flux_transformer(FluxTransformerConfig::parse(config), {1, 1, 1, 1, DType::f32}, &weights);
  PartialFolder partial{fs::path(output)};

  std::map<std::string, Tensor> smoothing;
  if (!options.calibration_prompts.empty()) {
    stage("calibrate");
    smoothing = smoothing_factors(
        graph, weights,
        measure_input_ranges(folder, options.calibration_prompts, options.calibration_steps, options.cancel),
        options.smoothing);
  }

  stage("quantise");
  QuantizeModelReport report;
  std::map<std::string, LinearQuantization> layers;
  for (const Node& node : graph.nodes) {
    if (dynamic_cast<const LinearOp*>(node.op.get()) == nullptr) continue;
    const Value& weight = graph.values[static_cast<std::size_t>(node.inputs[1])];
    const std::string layer = layer_of_weight(weight.name);
    check_cancel();
    LayerDecision decision = decide_layer(options.policy, layer, weight.type.shape[1]);
    if (!decision.quantization) {
      report.layers.push_back({layer, decision.reason, false, 0});
      continue;
    }
    LinearQuantization& q = *decision.quantization;
    q.native_steps.clear();  // a request's affair
    if (const auto found = smoothing.find(layer); found != smoothing.end()) q.smooth = found->second;
    const Tensor plain = weights.tensor(weight.name);
    report.layers.push_back(
        {layer, q.to_string(), true, relative_error(plain, quantize_weight(plain, q, default_threads()), q)});
    layers[layer] = std::move(q);
  }
  if (layers.empty()) throw InvalidArgument("quantize: no layer is left to quantise");

  stage("write");
  const LayerTensors tensors(weights, layers);
  const fs::path weights_file = fs::path(kComponent) / "diffusion_pytorch_model.safetensors";
  const fs::path config_file = fs::path(kComponent) / "config.json";
  copy_other_files(model.path(), partial);
  tensors.write(partial.path() / weights_file, partial.shown(weights_file), check_cancel);
  write_config(config, layers, partial.path() / config_file, partial.shown(config_file));
  report.bytes_before = weights.stored_bytes();
  report.bytes_after = tensors.bytes();
  partial.finish();
  return report;
}

}  // namespace rondo
