// Quantising a model folder ahead: the transformer's linears become integers on disk.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "quantization/quantization_policy.h"

namespace rondo {

struct QuantizeModelOptions {
  QuantizationPolicy policy;
  /// Prompts whose pictures are drawn once to see how large the inputs of each layer get, channel by channel; with them
  /// layers are smoothed (SmoothQuant). Empty: no smoothing.
  std::vector<std::string> calibration_prompts;
  std::int64_t calibration_steps = 4;
  /// 0 leaves large inputs as they are, 1 moves them into the weights wholly.
  double smoothing = 0.5;
  std::function<void(const std::string& stage)> on_stage;
  const std::atomic<bool>* cancel = nullptr;  // looked at between layers; nothing is left behind
};

struct QuantizedLayer {
  std::string name;
  std::string how;  // "w8a8 rotation=64", or why it was left
  bool quantized = false;
  double relative_error = 0;  // |W' - W| / |W| over the layer
};

struct QuantizeModelReport {
  std::vector<QuantizedLayer> layers;
  std::uint64_t bytes_before = 0;  // of the transformer's weights
  std::uint64_t bytes_after = 0;
};

/// Writes `output` (which must not exist): a copy of `folder` whose transformer is quantised. It appears under its name
/// once it is whole. Throws FileError, Unsupported for a folder that is quantised already.
QuantizeModelReport quantize_model(const std::string& folder, const std::string& output,
                                   const QuantizeModelOptions& options);

}  // namespace rondo
