#include "models/t5_encoder.h"

#include "attention/attention_op.h"
#include "models/layers.h"
#include "ops/lookup.h"

namespace rondo {
namespace {

/// Pre-norm attention without scaling or biases; every layer adds the first one's relative position bias.
ValueId self_attention(const Scope& layer, ValueId x, ValueId position_bias, const T5EncoderConfig& config) {
  GraphBuilder& b = layer.builder();
  const Scope attention = layer / "SelfAttention";
  const ValueId normed = rms_norm(layer / "layer_norm", x, config.layer_norm_epsilon);
  const auto project = [&](const char* name) {
    return split_heads(b, linear(attention / name, normed, config.num_heads * config.d_kv, false), config.num_heads);
  };
  const ValueId mixed = b.apply<AttentionOp>({project("q"), project("k"), project("v"), position_bias}, 1.0, false);
  return add(b, x, linear(attention / "o", join_heads(b, mixed), config.d_model, false));
}

ValueId gated_feed_forward(const Scope& layer, ValueId x, const T5EncoderConfig& config) {
  GraphBuilder& b = layer.builder();
  const Scope dense = layer / "DenseReluDense";
  const ValueId normed = rms_norm(layer / "layer_norm", x, config.layer_norm_epsilon);
  const ValueId gate = activation(b, linear(dense / "wi_0", normed, config.d_ff, false), ActivationKind::gelu_tanh);
  const ValueId hidden = multiply(b, gate, linear(dense / "wi_1", normed, config.d_ff, false));
  return add(b, x, linear(dense / "wo", hidden, config.d_model, false));
}

/// Published folders name the table in either way, or in both; where the two differ, transformers 5 reads the
/// encoder's own.
std::string embedding_name(const WeightSource* weights) {
  constexpr const char* kOwn = "encoder.embed_tokens.weight";
  return weights != nullptr && weights->find(kOwn) != nullptr ? kOwn : "shared.weight";
}

}  // namespace

T5EncoderConfig T5EncoderConfig::parse(const JsonConfig& json) {
  T5EncoderConfig c;
  c.vocab_size = json.integer("vocab_size", 32128, 1, 10'000'000);
  c.d_model = json.integer("d_model", 512, 1, 65536);
  c.d_kv = json.integer("d_kv", 64, 1, 1024);
  c.d_ff = json.integer("d_ff", 2048, 1, 262144);
  c.num_layers = json.integer("num_layers", 6, 1, 1000);
  c.num_heads = json.integer("num_heads", 8, 1, 1024);
  c.relative_attention_num_buckets = json.integer("relative_attention_num_buckets", 32, 4, 4096);
  c.relative_attention_max_distance = json.integer("relative_attention_max_distance", 128, 2, 1'000'000);
  c.layer_norm_epsilon = json.number("layer_norm_epsilon", 1e-6, 0.0, 1.0);
  if (c.relative_attention_max_distance * 4 <= c.relative_attention_num_buckets) {
    json.refuse("relative_attention_max_distance", "allowed is more than a quarter of relative_attention_num_buckets");
  }
  if (json.text("feed_forward_proj", "relu") != "gated-gelu") json.refuse("feed_forward_proj", "allowed is gated-gelu");
  return c;
}

Graph build_t5_encoder(const T5EncoderConfig& config, std::int64_t batch, std::int64_t tokens, DType dtype,
                       const WeightSource* weights) {
  GraphBuilder b(weights);
  const Scope root(b, dtype);
  b.begin_segment("embed");
  const ValueId ids = b.input("input_ids", {{batch, tokens}, DType::s32, {}});
  const ValueId table = b.stored_weight(embedding_name(weights), {config.vocab_size, config.d_model}, dtype);
  ValueId x = b.apply<EmbeddingOp>({ids, table}, dtype);
  const Scope encoder = root / "encoder";
  const ValueId buckets = b.weight(encoder.full("block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
                                   {config.relative_attention_num_buckets, config.num_heads}, DType::f32);
  const ValueId position_bias =
      b.apply<RelativePositionBiasOp>({buckets}, tokens, config.relative_attention_max_distance);
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    b.begin_segment("block", static_cast<int>(i));
    const Scope block = encoder / "block" / i / "layer";
    x = self_attention(block / 0, x, position_bias, config);
    x = gated_feed_forward(block / 1, x, config);
  }
  b.begin_segment("head");
  b.output("last_hidden_state", rms_norm(encoder / "final_layer_norm", x, config.layer_norm_epsilon));
  return b.finish();
}

bool is_harmless_t5_tensor(const std::string& name) {
  return name == "shared.weight" || name == "encoder.embed_tokens.weight" || name == "lm_head.weight" ||
         name.starts_with("decoder.");
}

}  // namespace rondo
