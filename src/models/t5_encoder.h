// T5's encoder (Raffel et al., 2020; v1.1 with gated GELU), as transformers' T5EncoderModel.
#pragma once

#include "graph/builder.h"
#include "io/json_config.h"

namespace rondo {

struct T5EncoderConfig {
  std::int64_t vocab_size = 32128;
  std::int64_t d_model = 512;
  std::int64_t d_kv = 64;
  std::int64_t d_ff = 2048;
  std::int64_t num_layers = 6;
  std::int64_t num_heads = 8;
  std::int64_t relative_attention_num_buckets = 32;
  std::int64_t relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;

  static T5EncoderConfig parse(const JsonConfig& config);
};

/// Input: input_ids [B, tokens] int32. Output: last_hidden_state [B, tokens, d_model] in `dtype`. As in diffusers'
/// FluxPipeline, padding is attended to like any token.
Graph build_t5_encoder(const T5EncoderConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype,
                       const WeightSource* weights);

/// Tensors of published folders that the encoder does not read.
bool is_harmless_t5_tensor(const std::string& name);

}  // namespace rondo
