// What quantising linears does to a model: layer by layer on the inputs of a real run, and to the picture.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "pipelines/picture_quality.h"
#include "rondo/text_to_image.h"

namespace rondo {

struct EvaluatedLayer {
  std::string name;
  std::string how;     // "w8a8", or why it is left
  std::string kernel;  // what multiplied it, on the device that was asked for; empty where it is left
  bool quantized = false;
  double cosine = 1;       // the lowest over all steps, of the layer's outputs
  double relative_l2 = 0;  // the highest
};

struct LinearEvaluation {
  std::vector<EvaluatedLayer> layers;  // of the transformer, in its order
  PictureQuality picture;              // quantised against unquantised, all in one dtype
  Image wanted;
  Image given;
};

/// Draws the request's first picture unquantised, running every layer that `options` would quantise both ways on the
/// same inputs, then quantised throughout. Throws what TextToImagePipeline does.
LinearEvaluation evaluate_linears(const std::string& folder, const PipelineOptions& options,
                                  const TextToImageRequest& request, const std::atomic<bool>* cancel);

}  // namespace rondo
