#include "quantization/quantized_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/hash.h"
#include "core/text.h"
#include "core/threads.h"
#include "quantization/quantization_policy.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr int kVersion = 1;

}  // namespace

std::string stored_weight_name(const std::string& layer, LinearFormat format) {
  return layer + (format == LinearFormat::w4a16 ? ".weight_packed" : ".weight");
}
std::string stored_scale_name(const std::string& layer) { return layer + ".weight_scale"; }
std::string stored_smooth_name(const std::string& layer) { return layer + ".smooth_scale"; }

nlohmann::json describe_quantization(const std::map<std::string, LinearQuantization>& layers) {
  nlohmann::json entries = nlohmann::json::object();
  for (const auto& [layer, quantization] : layers) {
    nlohmann::json& entry = entries[layer];
    entry["format"] = linear_format_name(quantization.format);
    if (quantization.group != 0) entry["group"] = quantization.group;
    if (quantization.rotation != 0) entry["rotation"] = quantization.rotation;
    if (quantization.smooth.defined()) entry["smooth"] = true;
  }
  return {{"quant_method", "rondo"}, {"format_version", kVersion}, {"layers", std::move(entries)}};
}

std::shared_ptr<const QuantizedCheckpoint> QuantizedCheckpoint::open(Checkpoint checkpoint, const JsonConfig& config) {
  const nlohmann::json& description = config.object().at("quantization_config");
  const std::string source = config.source() + ": quantization_config";
  if (!description.is_object()) config.refuse("quantization_config", "allowed is an object");
  const JsonConfig checked(description, source);
  if (checked.text("quant_method", std::nullopt) != "rondo")
    checked.refuse("quant_method", "known is rondo, as rondo quantize writes it");
  checked.integer("format_version", std::nullopt, kVersion, kVersion);
  const auto layers = description.find("layers");
  if (layers == description.end() || !layers->is_object())
    checked.refuse("layers", "allowed is an object of layer: {format, ...}");
  std::shared_ptr<QuantizedCheckpoint> result(new QuantizedCheckpoint(std::move(checkpoint)));
  for (const auto& [layer, entry] : layers->items()) {
    const std::string where = fmt::format("{}: layers: '{}'", source, printable(layer));
    if (!entry.is_object()) throw FileError(where + ": is no object");
    result->add_layer(layer, JsonConfig(entry, where));
  }
  return result;
}

const TensorRecord& QuantizedCheckpoint::require(const std::string& name, DType dtype) const {
  const TensorRecord* record = checkpoint_.find(name);
  if (record == nullptr)
    throw FileError(fmt::format("{}: has no tensor '{}', which quantization_config names", source(), printable(name)));
  if (record->dtype != dtype)
    throw FileError(fmt::format("{}: tensor '{}' has dtype {}; quantization_config needs {}", source(), printable(name),
                                dtype_name(record->dtype), dtype_name(dtype)));
  return *record;
}

void QuantizedCheckpoint::add_layer(const std::string& layer, const JsonConfig& entry) {
  LinearQuantization q;
  try {
    q.format = parse_linear_format(entry.text("format", std::nullopt), "format");
  } catch (const InvalidArgument& error) {
    throw FileError(fmt::format("{}: {}", entry.source(), error.what()));
  }
  const bool packed = q.format == LinearFormat::w4a16;
  q.weight_limit = packed ? 7 : 127;
  const std::string name = stored_weight_name(layer, q.format);
  const TensorRecord& weight = require(name, stored_dtype(q.format));
  const auto wrong_shape = [&](const std::string& tensor, const Shape& shape, const std::string& needed) {
    return FileError(fmt::format("{}: tensor '{}' has shape {}; quantization_config needs {}", source(),
                                 printable(tensor), shape.to_string(), needed));
  };
  if (weight.shape.rank() != 2 || weight.shape.elements() == 0) throw wrong_shape(name, weight.shape, "two axes");
  const Shape shape{weight.shape[0], weight.shape[1] * (packed ? 2 : 1)};
  const std::int64_t inputs = shape[1];
  q.group = entry.integer("group", 0, 0, inputs);
  if (q.group != 0 && q.is_fp8()) entry.refuse("group", fmt::format("{} has none", linear_format_name(q.format)));
  if (q.group != 0 && inputs % q.group != 0)
    entry.refuse("group", fmt::format("allowed are divisors of the layer's {} inputs", inputs));
  q.rotation = entry.integer("rotation", 0, 0, inputs);
  if ((q.rotation & (q.rotation - 1)) != 0 || (q.rotation != 0 && inputs % q.rotation != 0))
    entry.refuse("rotation", fmt::format("allowed are powers of two that divide the layer's {} inputs", inputs));

  const Shape scales{shape[0], q.group == 0 ? 1 : inputs / q.group};
  const TensorRecord& scale = require(stored_scale_name(layer), DType::f32);
  if (!(scale.shape == scales)) throw wrong_shape(stored_scale_name(layer), scale.shape, scales.to_string());
  if (q.format == LinearFormat::fp8_per_tensor) {
    const Tensor values = checkpoint_.tensor(stored_scale_name(layer));
    for (std::int64_t n = 0; n < shape[0]; ++n) {
      const float first = values.as<float>()[0];
      if (values.as<float>()[n] != first && !std::isnan(first))
        throw FileError(fmt::format("{}: tensor '{}' holds {} and {}; fp8-per-tensor needs one scale", source(),
                                    printable(stored_scale_name(layer)), first, values.as<float>()[n]));
    }
  }
  if (entry.boolean("smooth", false)) {
    const std::string smooth = stored_smooth_name(layer);
    const TensorRecord& record = require(smooth, DType::f32);
    if (!(record.shape == Shape{inputs})) throw wrong_shape(smooth, record.shape, Shape{inputs}.to_string());
    q.smooth = checkpoint_.tensor(smooth);
    for (std::int64_t k = 0; k < inputs; ++k) {
      if (!(q.smooth.as<float>()[k] > 0))
        throw FileError(fmt::format("{}: tensor '{}' holds {}; allowed are numbers above 0", source(),
                                    printable(smooth), q.smooth.as<float>()[k]));
    }
  }
  weights_[layer + ".weight"] = {DType::f32, shape, 0, static_cast<std::size_t>(shape.elements()) * sizeof(float)};
  layers_[layer] = std::move(q);
}

const TensorRecord* QuantizedCheckpoint::find(const std::string& name) const {
  const auto found = weights_.find(name);
  return found == weights_.end() ? checkpoint_.find(name) : &found->second;
}

Tensor QuantizedCheckpoint::tensor(const std::string& name) const {
  if (!weights_.contains(name)) return checkpoint_.tensor(name);
  const std::string layer = layer_of_weight(name);
  const LinearQuantization& q = layers_.at(layer);
  const Tensor stored = checkpoint_.tensor(stored_weight_name(layer, q.format));
  const QuantizedWeight weight{q.format == LinearFormat::w4a16 ? unpack_int4(stored) : stored,
                               checkpoint_.tensor(stored_scale_name(layer))};
  return dequantize_weight(weight, q, default_threads());
}

std::vector<std::string> QuantizedCheckpoint::names() const {
  std::set<std::string> hidden;
  for (const auto& [layer, q] : layers_) {
    hidden.insert(stored_weight_name(layer, q.format));
    hidden.insert(stored_scale_name(layer));
    if (q.smooth.defined()) hidden.insert(stored_smooth_name(layer));
  }
  std::vector<std::string> result;
  for (const std::string& name : checkpoint_.names()) {
    if (!hidden.contains(name)) result.push_back(name);
  }
  for (const auto& [name, record] : weights_) result.push_back(name);
  return result;
}

std::string QuantizedCheckpoint::fingerprint() const {
  return fmt::format("{} quantized {:016x}", checkpoint_.fingerprint(), hash_of(describe_quantization(layers_).dump()));
}

std::uint64_t QuantizedCheckpoint::sample(const std::string& name) const {
  if (!weights_.contains(name)) return checkpoint_.sample(name);
  const std::string layer = layer_of_weight(name);
  return checkpoint_.sample(stored_weight_name(layer, layers_.at(layer).format)) ^
         checkpoint_.sample(stored_scale_name(layer));
}

void QuantizedCheckpoint::release(const std::string& name) const {
  if (!weights_.contains(name)) return checkpoint_.release(name);
  const std::string layer = layer_of_weight(name);
  checkpoint_.release(stored_weight_name(layer, layers_.at(layer).format));
  checkpoint_.release(stored_scale_name(layer));
}

}  // namespace rondo
