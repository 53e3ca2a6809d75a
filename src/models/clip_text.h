// CLIP's text encoder (Radford et al., 2021), as transformers' CLIPTextModel.
#pragma once

#include <span>

#include "graph/builder.h"
#include "io/json_config.h"

namespace rondo {

struct ClipTextConfig {
  std::int64_t vocab_size = 49408;
  std::int64_t hidden_size = 512;
  std::int64_t intermediate_size = 2048;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 8;
  std::int64_t max_position_embeddings = 77;
  double layer_norm_eps = 1e-5;
  bool quick_gelu = true;
  std::int64_t eos_token_id = 49407;

  static ClipTextConfig parse(const JsonConfig& config);

  /// The position whose hidden state is the pooled output: the first eos_token_id; for configs that say 2, as the first
  /// published ones do, the largest id.
  std::int64_t pooled_position(std::span<const std::int32_t> ids) const;
};

/// Inputs: input_ids [B, tokens] int32, pooled_position [B] int32. Outputs in `dtype`: last_hidden_state [B, tokens,
/// hidden_size], pooler_output [B, hidden_size].
Graph build_clip_text(const ClipTextConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype,
                      const WeightSource* weights);

/// Tensors of published folders that the text encoder does not read.
bool is_harmless_clip_tensor(const std::string& name);

}  // namespace rondo
