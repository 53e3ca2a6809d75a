// What quantising attention does, layer by layer on the operands of a real run, and on operands with channels that
// stand out.
#pragma once

#include <atomic>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_quantization.h"
#include "rondo/text_to_image.h"

namespace rondo {

/// Quantised attention against float32 attention on the same operands.
struct EvaluatedAttention {
  std::string layer;  // "7", or the operands' name
  AttentionQuantization quantization;
  double cosine = 1;       // the lowest over all runs of the layer, of its outputs
  double relative_l2 = 0;  // the highest
  double max_error = 0;    // the largest difference of an element
};

/// Each dtype plain, rotated, smoothed, and both.
std::vector<AttentionQuantization> every_attention_quantization();

/// Draws the request's first picture with native attention and runs every attention layer of the transformer in each of
/// these ways as well: by the kernel that the options name where it can, else by the first that can, else by the
/// float64 model. Throws what TextToImagePipeline does.
std::vector<EvaluatedAttention> evaluate_attention(const std::string& folder, const PipelineOptions& options,
                                                   const TextToImageRequest& request,
                                                   std::span<const AttentionQuantization> ways,
                                                   const std::atomic<bool>* cancel);

/// The same, by the kernel of that name or the first that can, on operands of 512 tokens, 2 heads of 128, normal noise:
///   "noise"       as it is
///   "outliers"    channels 5 and 77 of query and key are 50 times as large, at a scale of 1 / 2000
///   "key offset"  50 is added to channels 5 and 77 of every key, which softmax does not see
std::vector<EvaluatedAttention> evaluate_synthetic_attention(std::span<const AttentionQuantization> ways,
                                                             const std::string& kernel, int threads);

/// The layers whose cosine lies below `least`, as --kv-cache-skip-layers takes them: "1,4"; empty when there is none.
std::string layers_below(std::span<const EvaluatedAttention> found, double least);

}  // namespace rondo
