#include "models/flux_transformer.h"

#include <cmath>
#include <numeric>

#include "attention/attention_op.h"
#include "models/layers.h"
#include "ops/layout.h"
#include "ops/lookup.h"
#include "ops/modulation.h"
#include "ops/norms.h"
#include "ops/rope.h"

namespace rondo {
namespace {

constexpr double kEps = 1e-6;
constexpr double kRopeTheta = 10000.0;
constexpr std::int64_t kTimeChannels = 256;
constexpr std::int64_t kMlpRatio = 4;

struct RopeTables {
  ValueId cos;
  ValueId sin;
};

/// Text tokens stand at (0, 0, 0), image tokens at (0, row, column); each axis turns its own share of the head dim.
RopeTables rope_tables(GraphBuilder& b, const FluxTransformerConfig& config, const FluxTransformerShape& shape) {
  const std::int64_t tokens = shape.text_tokens + shape.image_tokens();
  const std::int64_t half = config.attention_head_dim / 2;
  Tensor cos = Tensor::empty({tokens, half}, DType::f32);
  Tensor sin = Tensor::empty({tokens, half}, DType::f32);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t pixel = t - shape.text_tokens;
    const std::array<std::int64_t, 3> position{0, pixel < 0 ? 0 : pixel / shape.columns,
                                               pixel < 0 ? 0 : pixel % shape.columns};
    std::int64_t target = t * half;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const std::int64_t dim = config.axes_dims_rope[axis];
      for (std::int64_t i = 0; i < dim / 2; ++i, ++target) {
        const double frequency = 1.0 / std::pow(kRopeTheta, static_cast<double>(2 * i) / static_cast<double>(dim));
        const double angle = static_cast<double>(position[axis]) * frequency;
        cos.as<float>()[target] = static_cast<float>(std::cos(angle));
        sin.as<float>()[target] = static_cast<float>(std::sin(angle));
      }
    }
  }
  return {b.constant(cos), b.constant(sin)};
}

/// linear_1, SiLU, linear_2: how timestep, guidance and pooled text become one vector.
ValueId embed_vector(const Scope& scope, ValueId x, std::int64_t width) {
  const ValueId hidden = activation(scope.builder(), linear(scope / "linear_1", x, width), ActivationKind::silu);
  return linear(scope / "linear_2", hidden, width);
}

/// The parameters that a block's adaptive norm draws from the conditioning vector.
class Modulation {
 public:
  Modulation(const Scope& scope, ValueId conditioning, std::int64_t parts)
      : builder_(scope.builder()), parts_(parts), width_(builder_.shape(conditioning).back()) {
    const ValueId active = activation(builder_, conditioning, ActivationKind::silu);
    all_ = linear(scope / "linear", active, parts * width_);
  }
  ValueId operator[](std::int64_t part) const { return chunk(builder_, all_, part, parts_); }

 private:
  GraphBuilder& builder_;
  std::int64_t parts_;
  std::int64_t width_;
  ValueId all_;
};

/// LayerNorm(x) * (1 + scale) + shift
ValueId adaptive_norm(GraphBuilder& b, ValueId x, ValueId scale, ValueId shift) {
  return b.apply<ModulateOp>({b.apply<LayerNormOp>({x}, kEps), scale, shift});
}

ValueId gated_add(GraphBuilder& b, ValueId residual, ValueId gate, ValueId x) {
  return b.apply<GatedAddOp>({residual, gate, x});
}

ValueId feed_forward(const Scope& scope, ValueId x) {
  const std::int64_t width = scope.builder().shape(x).back();
  const ValueId hidden = linear(scope / "net.0.proj", x, kMlpRatio * width);
  return linear(scope / "net.2", activation(scope.builder(), hidden, ActivationKind::gelu_tanh), width);
}

struct Heads {
  ValueId query;
  ValueId key;
  ValueId value;
};

/// Projections cut into heads, with RMSNorm on query and key.
Heads project_heads(const Scope& attention, ValueId x, const FluxTransformerConfig& config, bool added) {
  const auto project = [&](const char* name) {
    return split_heads(attention.builder(), linear(attention / name, x, config.inner_dim()),
                       config.num_attention_heads);
  };
  return {rms_norm(attention / (added ? "norm_added_q" : "norm_q"), project(added ? "add_q_proj" : "to_q"), kEps),
          rms_norm(attention / (added ? "norm_added_k" : "norm_k"), project(added ? "add_k_proj" : "to_k"), kEps),
          project(added ? "add_v_proj" : "to_v")};
}

ValueId attend(GraphBuilder& b, const Heads& heads, const RopeTables& rope) {
  const ValueId query = b.apply<RopeOp>({heads.query, rope.cos, rope.sin});
  const ValueId key = b.apply<RopeOp>({heads.key, rope.cos, rope.sin});
  const double scale = 1.0 / std::sqrt(static_cast<double>(b.shape(query)[3]));
  return join_heads(b, b.apply<AttentionOp>({query, key, heads.value}, scale, false));
}

struct Streams {
  ValueId text;
  ValueId image;
};

/// Text and image have weights of their own and meet in attention.
Streams double_block(const Scope& scope, Streams x, ValueId conditioning, const RopeTables& rope,
                     const FluxTransformerConfig& config) {
  GraphBuilder& b = scope.builder();
  enum : std::int64_t { shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp, parts };
  const Modulation image(scope / "norm1", conditioning, parts);
  const Modulation text(scope / "norm1_context", conditioning, parts);

  const Scope attention = scope / "attn";
  const Heads i =
      project_heads(attention, adaptive_norm(b, x.image, image[scale_msa], image[shift_msa]), config, false);
  const Heads t = project_heads(attention, adaptive_norm(b, x.text, text[scale_msa], text[shift_msa]), config, true);
  const ValueId joint = attend(
      b, {concat(b, {t.query, i.query}, 1), concat(b, {t.key, i.key}, 1), concat(b, {t.value, i.value}, 1)}, rope);

  const std::int64_t text_tokens = b.shape(x.text)[1];
  const ValueId from_text = slice(b, joint, 1, 0, text_tokens);
  const ValueId from_image = slice(b, joint, 1, text_tokens, b.shape(joint)[1]);
  x.image = gated_add(b, x.image, image[gate_msa], linear(attention / "to_out.0", from_image, config.inner_dim()));
  x.text = gated_add(b, x.text, text[gate_msa], linear(attention / "to_add_out", from_text, config.inner_dim()));

  const ValueId image_mlp = feed_forward(scope / "ff", adaptive_norm(b, x.image, image[scale_mlp], image[shift_mlp]));
  const ValueId text_mlp =
      feed_forward(scope / "ff_context", adaptive_norm(b, x.text, text[scale_mlp], text[shift_mlp]));
  x.image = gated_add(b, x.image, image[gate_mlp], image_mlp);
  x.text = gated_add(b, x.text, text[gate_mlp], text_mlp);
  return x;
}

/// One stream; attention and MLP side by side.
ValueId single_block(const Scope& scope, ValueId x, ValueId conditioning, const RopeTables& rope,
                     const FluxTransformerConfig& config) {
  GraphBuilder& b = scope.builder();
  enum : std::int64_t { shift, scale, gate, parts };
  const Modulation modulation(scope / "norm", conditioning, parts);
  const ValueId normed = adaptive_norm(b, x, modulation[scale], modulation[shift]);
  const ValueId mlp =
      activation(b, linear(scope / "proj_mlp", normed, kMlpRatio * config.inner_dim()), ActivationKind::gelu_tanh);
  const ValueId attention = attend(b, project_heads(scope / "attn", normed, config, false), rope);
  return gated_add(b, x, modulation[gate],
                   linear(scope / "proj_out", concat(b, {attention, mlp}, 2), config.inner_dim()));
}

}  // namespace

FluxTransformerConfig FluxTransformerConfig::parse(const JsonConfig& json) {
  FluxTransformerConfig c;
  if (json.integer("patch_size", 1, 1, 64) != 1) json.refuse("patch_size", "allowed is 1");
  c.in_channels = json.integer("in_channels", 64, 4, 4096);
  if (c.in_channels % 4 != 0) json.refuse("in_channels", "allowed is a multiple of 4 (a 2 x 2 patch of latents)");
  c.out_channels = json.integer("out_channels", c.in_channels, 4, 4096);
  if (c.out_channels != c.in_channels) json.refuse("out_channels", "allowed is null or in_channels");
  c.num_layers = json.integer("num_layers", 19, 0, 1000);
  c.num_single_layers = json.integer("num_single_layers", 38, 0, 1000);
  c.attention_head_dim = json.integer("attention_head_dim", 128, 8, 1024);
  if (c.attention_head_dim % 8 != 0) json.refuse("attention_head_dim", "allowed is a multiple of 8");
  c.num_attention_heads = json.integer("num_attention_heads", 24, 1, 1024);
  c.joint_attention_dim = json.integer("joint_attention_dim", 4096, 1, 65536);
  c.pooled_projection_dim = json.integer("pooled_projection_dim", 768, 1, 65536);
  c.guidance_embeds = json.boolean("guidance_embeds", false);
  const auto axes = json.integers("axes_dims_rope", {16, 56, 56}, 2, 1024);
  const bool even = std::all_of(axes.begin(), axes.end(), [](std::int64_t dim) { return dim % 2 == 0; });
  if (axes.size() != 3 || !even || std::accumulate(axes.begin(), axes.end(), std::int64_t{0}) != c.attention_head_dim) {
    json.refuse("axes_dims_rope",
                fmt::format("allowed are 3 even numbers whose sum is attention_head_dim ({})", c.attention_head_dim));
  }
  std::copy(axes.begin(), axes.end(), c.axes_dims_rope.begin());
  return c;
}

Graph build_flux_transformer(const FluxTransformerConfig& config, const FluxTransformerShape& shape,
                             const WeightSource* weights) {
  GraphBuilder b(weights);
  const Scope root(b, shape.dtype);
  const std::int64_t width = config.inner_dim();

  b.begin_segment("embed");
  const ValueId latents =
      b.input("hidden_states", {{shape.latents_batch(), shape.image_tokens(), config.in_channels}, shape.dtype, {}});
  const ValueId prompt =
      b.input("encoder_hidden_states", {{shape.batch, shape.text_tokens, config.joint_attention_dim}, shape.dtype, {}});
  const ValueId pooled = b.input("pooled_projections", {{shape.batch, config.pooled_projection_dim}, shape.dtype, {}});
  const ValueId timestep = b.input("timestep", {{shape.latents_batch()}, DType::f32, {}});
  const Scope embed = root / "time_text_embed";
  const auto sinusoid = [&](ValueId t) { return b.apply<TimestepSinusoidOp>({t}, kTimeChannels, shape.dtype); };
  ValueId conditioning = embed_vector(embed / "timestep_embedder", sinusoid(timestep), width);
  if (config.guidance_embeds) {
    const ValueId guidance = b.input("guidance", {{shape.latents_batch()}, DType::f32, {}});
    conditioning = add(b, conditioning, embed_vector(embed / "guidance_embedder", sinusoid(guidance), width));
  }
  if (shape.shares_latents) conditioning = b.apply<ReshapeOp>({conditioning}, Shape{width});
  conditioning = add(b, embed_vector(embed / "text_embedder", pooled, width), conditioning);
  ValueId image = linear(root / "x_embedder", latents, width);
  if (shape.shares_latents) {
    const std::vector<ValueId> copies(static_cast<std::size_t>(shape.batch), image);
    image = b.add(std::make_shared<const ConcatOp>(0), copies);
  }
  Streams streams{linear(root / "context_embedder", prompt, width), image};
  const RopeTables rope = rope_tables(b, config, shape);

  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    b.begin_segment("double_block", static_cast<int>(i));
    streams = double_block(root / "transformer_blocks" / i, streams, conditioning, rope, config);
  }
  ValueId x = concat(b, {streams.text, streams.image}, 1);
  for (std::int64_t i = 0; i < config.num_single_layers; ++i) {
    b.begin_segment("single_block", static_cast<int>(i));
    x = single_block(root / "single_transformer_blocks" / i, x, conditioning, rope, config);
  }

  b.begin_segment("head");
  x = slice(b, x, 1, shape.text_tokens, b.shape(x)[1]);
  const Modulation modulation(root / "norm_out", conditioning, 2);  // scale, then shift
  x = adaptive_norm(b, x, modulation[0], modulation[1]);
  b.output("sample", linear(root / "proj_out", x, config.out_channels));
  return b.finish();
}

}  // namespace rondo
