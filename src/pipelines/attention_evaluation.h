// What quantising attention does, layer by layer on the operands of a real run, and on operands with channels that
// stand out.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "rondo/text_to_image.h"

namespace rondo {

/// Attention in 8 bits against float32 attention on the same operands.
struct EvaluatedAttention {
  std::string layer;  // "7", or "outliers"
  bool rotated = false;
  double cosine = 1;       // the lowest over all runs of the layer, of its outputs
  double relative_l2 = 0;  // the highest
  double max_error = 0;    // the largest difference of an element
};

/// Draws the request's first picture with native attention and runs every attention layer of the transformer in 8 bits
/// as well, turned and not, by the float64 model where no kernel can. Behind the layers stand operands of 512 tokens, 2
/// heads of 128, normal noise, in which channels 5 and 77 of query and key are 50 times as large, at a scale of 1 /
/// 2000. Throws what TextToImagePipeline does.
std::vector<EvaluatedAttention> evaluate_attention(const std::string& folder, const PipelineOptions& options,
                                                   const TextToImageRequest& request, const std::atomic<bool>* cancel);

/// The layers whose cosine lies below `least`, as --kv-cache-skip-layers takes them: "1,4"; empty when there is none.
std::string layers_below(const std::vector<EvaluatedAttention>& found, bool rotated, double least);

}  // namespace rondo
