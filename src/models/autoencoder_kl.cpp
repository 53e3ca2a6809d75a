#include "models/autoencoder_kl.h"

#include <cmath>

#include "attention/attention_op.h"
#include "models/layers.h"
#include "ops/conv2d.h"
#include "ops/layout.h"

namespace rondo {
namespace {

constexpr double kEps = 1e-6;

ValueId norm_silu(const Scope& scope, ValueId x, std::int64_t groups) {
  return activation(scope.builder(), group_norm(scope, x, groups, kEps), ActivationKind::silu);
}

ValueId resnet_block(const Scope& scope, ValueId x, std::int64_t out, std::int64_t groups) {
  GraphBuilder& b = scope.builder();
  ValueId hidden = conv2d(scope / "conv1", norm_silu(scope / "norm1", x, groups), out, 3, 1);
  hidden = conv2d(scope / "conv2", norm_silu(scope / "norm2", hidden, groups), out, 3, 1);
  const ValueId shortcut = b.shape(x).back() == out ? x : conv2d(scope / "conv_shortcut", x, out, 1, 0);
  return add(b, shortcut, hidden);
}

/// Every position attends to every other, with one head as wide as the channels.
ValueId attention_block(const Scope& scope, ValueId x, std::int64_t groups) {
  GraphBuilder& b = scope.builder();
  const Shape s = b.shape(x);
  const ValueId normed =
      b.apply<ReshapeOp>({group_norm(scope / "group_norm", x, groups, kEps)}, Shape{s[0], s[1] * s[2], s[3]});
  const auto project = [&](const char* name) { return split_heads(b, linear(scope / name, normed, s[3]), 1); };
  const ValueId mixed = b.apply<AttentionOp>({project("to_q"), project("to_k"), project("to_v")},
                                             1.0 / std::sqrt(static_cast<double>(s[3])), false);
  const ValueId result = linear(scope / "to_out.0", join_heads(b, mixed), s[3]);
  return add(b, x, b.apply<ReshapeOp>({result}, s));
}

ValueId mid_block(const Scope& scope, ValueId x, const AutoencoderKlConfig& config) {
  const std::int64_t channels = scope.builder().shape(x).back();
  x = resnet_block(scope / "resnets" / 0, x, channels, config.norm_num_groups);
  if (config.mid_block_add_attention) x = attention_block(scope / "attentions" / 0, x, config.norm_num_groups);
  return resnet_block(scope / "resnets" / 1, x, channels, config.norm_num_groups);
}

}  // namespace

AutoencoderKlConfig AutoencoderKlConfig::parse(const JsonConfig& json) {
  AutoencoderKlConfig c;
  if (json.integer("in_channels", 3, 1, 64) != 3) json.refuse("in_channels", "allowed is 3");
  if (json.integer("out_channels", 3, 1, 64) != 3) json.refuse("out_channels", "allowed is 3");
  c.latent_channels = json.integer("latent_channels", 4, 1, 1024);
  c.layers_per_block = json.integer("layers_per_block", 1, 1, 64);
  c.norm_num_groups = json.integer("norm_num_groups", 32, 1, 4096);
  c.block_out_channels = json.integers("block_out_channels", {64}, 1, 65536);
  if (c.block_out_channels.size() > 8) json.refuse("block_out_channels", "allowed are 1 to 8 blocks");
  for (const std::int64_t channels : c.block_out_channels) {
    if (channels % c.norm_num_groups != 0) {
      json.refuse("block_out_channels",
                  fmt::format("allowed are multiples of norm_num_groups ({})", c.norm_num_groups));
    }
  }
  for (const auto& [key, allowed] :
       {std::pair("down_block_types", "DownEncoderBlock2D"), {"up_block_types", "UpDecoderBlock2D"}}) {
    const std::vector<std::string> types = json.texts(key);
    for (const std::string& type : types) {
      if (type != allowed) json.refuse(key, fmt::format("allowed is {}", allowed));
    }
    if (!types.empty() && types.size() != c.block_out_channels.size()) {
      json.refuse(key, "allowed are as many as block_out_channels has");
    }
  }
  if (json.text("act_fn", "silu") != "silu") json.refuse("act_fn", "allowed is silu");
  for (const char* key : {"latents_mean", "latents_std"}) {
    if (json.has(key)) json.refuse(key, "it is not supported; allowed is null");
  }
  c.mid_block_add_attention = json.boolean("mid_block_add_attention", true);
  c.use_quant_conv = json.boolean("use_quant_conv", true);
  c.use_post_quant_conv = json.boolean("use_post_quant_conv", true);
  c.scaling_factor = json.number("scaling_factor", 0.18215, -1e6, 1e6);
  if (std::fabs(c.scaling_factor) < 1e-6) json.refuse("scaling_factor", "allowed is a number other than 0");
  c.shift_factor = json.number("shift_factor", 0.0, -1e6, 1e6);
  c.sample_size = json.integer("sample_size", 32, 1, 65536);
  return c;
}

Graph build_vae_decoder(const AutoencoderKlConfig& config, std::int64_t batch, std::int64_t height, std::int64_t width,
                        DType dtype, const WeightSource* weights) {
  GraphBuilder b(weights);
  const Scope root(b, dtype);
  const Scope decoder = root / "decoder";
  const std::vector<std::int64_t>& channels = config.block_out_channels;
  b.begin_segment("embed");
  ValueId x = b.input("latents", {{batch, height, width, config.latent_channels}, dtype, {}});
  if (config.use_post_quant_conv) x = conv2d(root / "post_quant_conv", x, config.latent_channels, 1, 0);
  x = conv2d(decoder / "conv_in", x, channels.back(), 3, 1);
  b.begin_segment("mid_block");
  x = mid_block(decoder / "mid_block", x, config);
  for (std::size_t i = 0; i < channels.size(); ++i) {
    b.begin_segment("up_block", static_cast<int>(i));
    const Scope block = decoder / "up_blocks" / static_cast<std::int64_t>(i);
    const std::int64_t out = channels[channels.size() - 1 - i];
    for (std::int64_t j = 0; j <= config.layers_per_block; ++j)
      x = resnet_block(block / "resnets" / j, x, out, config.norm_num_groups);
    if (i + 1 < channels.size()) x = conv2d(block / "upsamplers.0.conv", b.apply<UpsampleNearestOp>({x}), out, 3, 1);
  }
  b.begin_segment("head");
  x = norm_silu(decoder / "conv_norm_out", x, config.norm_num_groups);
  b.output("sample", conv2d(decoder / "conv_out", x, config.out_channels, 3, 1));
  return b.finish();
}

Graph build_vae_encoder(const AutoencoderKlConfig& config, std::int64_t batch, std::int64_t height, std::int64_t width,
                        DType dtype, const WeightSource* weights) {
  GraphBuilder b(weights);
  const Scope root(b, dtype);
  const Scope encoder = root / "encoder";
  const std::vector<std::int64_t>& channels = config.block_out_channels;
  b.begin_segment("embed");
  ValueId x = b.input("sample", {{batch, height, width, config.in_channels}, dtype, {}});
  x = conv2d(encoder / "conv_in", x, channels.front(), 3, 1);
  for (std::size_t i = 0; i < channels.size(); ++i) {
    b.begin_segment("down_block", static_cast<int>(i));
    const Scope block = encoder / "down_blocks" / static_cast<std::int64_t>(i);
    for (std::int64_t j = 0; j < config.layers_per_block; ++j) {
      x = resnet_block(block / "resnets" / j, x, channels[i], config.norm_num_groups);
    }
    if (i + 1 < channels.size()) {
      const Scope down = block / "downsamplers.0.conv";
      x = b.apply<Conv2dOp>({x, down.weight({channels[i], channels[i], 3, 3}), down.vector("bias", channels[i])}, 2,
                            Conv2dOp::Padding{0, 1, 0, 1});
    }
  }
  b.begin_segment("mid_block");
  x = mid_block(encoder / "mid_block", x, config);
  b.begin_segment("head");
  x = norm_silu(encoder / "conv_norm_out", x, config.norm_num_groups);
  x = conv2d(encoder / "conv_out", x, 2 * config.latent_channels, 3, 1);
  if (config.use_quant_conv) x = conv2d(root / "quant_conv", x, 2 * config.latent_channels, 1, 0);
  b.output("moments", x);
  return b.finish();
}

}  // namespace rondo
