// A checkpoint whose linear layers are stored quantised, seen as the floating weights that they stand for, and how it
// is described: "quantization_config" in the component's config.json,
//
//   {"quant_method": "rondo", "format_version": 1, "layers": {"blocks.0.to_q": {"format": "w8a8", "rotation": 64},
//   ...}}
//
// with the tensors <layer>.weight (int8 or, of fp8, float8_e4m3fn [N, K]) or, of w4a16, <layer>.weight_packed (uint8
// [N, K / 2], the even input in the low half), <layer>.weight_scale (float32 [N, K / group]) and, with "smooth": true,
// <layer>.smooth_scale (float32 [K]).
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "io/json_config.h"
#include "io/safetensors.h"
#include "quantization/linear_quantization.h"

namespace rondo {

/// The description of layers, to be written; smoothing factors are named, not held.
nlohmann::json describe_quantization(const std::map<std::string, LinearQuantization>& layers);

/// Names of a layer's tensors.
std::string stored_weight_name(const std::string& layer, LinearFormat format);
std::string stored_scale_name(const std::string& layer);
std::string stored_smooth_name(const std::string& layer);

/// Quantising what this source gives for a layer, in the way that layers() says, gives back what is stored, to the last
/// bit: what shares a scale has the limit (127, 7, 448) as its largest, as rondo quantize writes it, so that the scale
/// is found again.
class QuantizedCheckpoint final : public WeightSource {
 public:
  /// `config` is the component's. Throws FileError for a description or for tensors that do not hold together.
  static std::shared_ptr<const QuantizedCheckpoint> open(Checkpoint checkpoint, const JsonConfig& config);

  const std::map<std::string, LinearQuantization>& layers() const { return layers_; }

  const std::string& source() const override { return checkpoint_.source(); }
  const TensorRecord* find(const std::string& name) const override;
  Tensor tensor(const std::string& name) const override;
  std::vector<std::string> names() const override;
  void release(const std::string& name) const override;
  std::uint64_t stored_bytes() const override { return checkpoint_.stored_bytes(); }
  std::string fingerprint() const override;
  std::uint64_t sample(const std::string& name) const override;

 private:
  explicit QuantizedCheckpoint(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  void add_layer(const std::string& layer, const JsonConfig& entry);
  const TensorRecord& require(const std::string& name, DType dtype) const;

  Checkpoint checkpoint_;
  std::map<std::string, LinearQuantization> layers_;
  std::map<std::string, TensorRecord> weights_;  // of quantised layers, as they are seen
};

}  // namespace rondo
