#include "models/clip_text.h"

#include <algorithm>
#include <cmath>

#include "attention/attention_op.h"
#include "models/layers.h"
#include "ops/lookup.h"

namespace rondo {
namespace {

constexpr std::int64_t kLegacyEosTokenId = 2;

ValueId causal_self_attention(const Scope& scope, ValueId x, const ClipTextConfig& config) {
  GraphBuilder& b = scope.builder();
  const auto project = [&](const char* name) {
    return split_heads(b, linear(scope / name, x, config.hidden_size), config.num_attention_heads);
  };
  const double scale = 1.0 / std::sqrt(static_cast<double>(config.hidden_size / config.num_attention_heads));
  const ValueId mixed = b.apply<AttentionOp>({project("q_proj"), project("k_proj"), project("v_proj")}, scale, true);
  return linear(scope / "out_proj", join_heads(b, mixed), config.hidden_size);
}

ValueId encoder_layer(const Scope& scope, ValueId x, const ClipTextConfig& config) {
  GraphBuilder& b = scope.builder();
  x = add(
      b, x,
      causal_self_attention(scope / "self_attn", layer_norm(scope / "layer_norm1", x, config.layer_norm_eps), config));
  const ValueId normed = layer_norm(scope / "layer_norm2", x, config.layer_norm_eps);
  const ValueId hidden = activation(b, linear(scope / "mlp.fc1", normed, config.intermediate_size),
                                    config.quick_gelu ? ActivationKind::quick_gelu : ActivationKind::gelu_erf);
  return add(b, x, linear(scope / "mlp.fc2", hidden, config.hidden_size));
}

}  // namespace

ClipTextConfig ClipTextConfig::parse(const JsonConfig& json) {
  ClipTextConfig c;
  c.vocab_size = json.integer("vocab_size", 49408, 1, 10'000'000);
  c.hidden_size = json.integer("hidden_size", 512, 1, 65536);
  c.intermediate_size = json.integer("intermediate_size", 2048, 1, 262144);
  c.num_hidden_layers = json.integer("num_hidden_layers", 12, 1, 1000);
  c.num_attention_heads = json.integer("num_attention_heads", 8, 1, 1024);
  if (c.hidden_size % c.num_attention_heads != 0) {
    json.refuse("num_attention_heads", fmt::format("allowed is a divisor of hidden_size ({})", c.hidden_size));
  }
  c.max_position_embeddings = json.integer("max_position_embeddings", 77, 2, 65536);
  c.layer_norm_eps = json.number("layer_norm_eps", 1e-5, 0.0, 1.0);
  const std::string act = json.text("hidden_act", "quick_gelu");
  if (act != "quick_gelu" && act != "gelu") json.refuse("hidden_act", "allowed are quick_gelu and gelu");
  c.quick_gelu = act == "quick_gelu";
  c.eos_token_id = json.integer("eos_token_id", 49407, 0, 10'000'000);
  return c;
}

std::int64_t ClipTextConfig::pooled_position(std::span<const std::int32_t> ids) const {
  if (eos_token_id == kLegacyEosTokenId) return std::max_element(ids.begin(), ids.end()) - ids.begin();
  const auto found = std::find(ids.begin(), ids.end(), eos_token_id);
  return found == ids.end() ? 0 : found - ids.begin();
}

Graph build_clip_text(const ClipTextConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype,
                      const WeightSource* weights) {
  GraphBuilder b(weights);
  const bool prefixed = weights != nullptr && weights->find("text_model.embeddings.token_embedding.weight") != nullptr;
  const Scope root(b, dtype, prefixed ? "text_model" : "");
  b.begin_segment("embed");
  const ValueId ids = b.input("input_ids", {{batch, tokens}, DType::s32, {}});
  const ValueId pooled = b.input("pooled_position", {{batch}, DType::s32, {}});
  const Scope embeddings = root / "embeddings";
  const ValueId table =
      b.stored_weight(embeddings.full("token_embedding.weight"), {config.vocab_size, config.hidden_size}, dtype);
  const ValueId positions =
      (embeddings / "position_embedding").weight({config.max_position_embeddings, config.hidden_size});
  ValueId x = add(b, b.apply<EmbeddingOp>({ids, table}, dtype), slice(b, positions, 0, 0, tokens));
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    b.begin_segment("block", static_cast<int>(i));
    x = encoder_layer(root / "encoder.layers" / i, x, config);
  }
  b.begin_segment("head");
  x = layer_norm(root / "final_layer_norm", x, config.layer_norm_eps);
  b.output("last_hidden_state", x);
  b.output("pooler_output", b.apply<SelectRowOp>({x, pooled}));
  return b.finish();
}

bool is_harmless_clip_tensor(const std::string& name) {
  return name.ends_with("embeddings.position_ids") || name == "logit_scale" || name == "text_projection.weight" ||
         name == "visual_projection.weight" || name.starts_with("vision_model.");
}

}  // namespace rondo
