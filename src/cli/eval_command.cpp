// `rondo eval`: what an acceleration costs in quality.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/model_folder.h"
#include "cli/quality_plot.h"
#include "cli/run_flags.h"
#include "io/output_file.h"
#include "io/picture_file.h"
#include "pipelines/attention_evaluation.h"
#include "pipelines/linear_evaluation.h"
#include "pipelines/plan_options.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

/// A run whose operands are looked at.
struct EvalRunFlags {
  std::optional<std::string> model;
  std::optional<std::string> prompt;
  std::optional<std::string> seed;
  std::optional<std::string> steps;
  bool as_json = false;
  RunFlags run;

  void add_to(CLI::App& app) {
    add_value(app, "--model", model, "folder in diffusers layout (default: the bundled model)");
    add_value(app, "-p,--prompt", prompt, "what to draw (default: red heart)");
    add_value(app, "--seed", seed, "default 1");
    add_value(app, "--num-inference-steps", steps, "denoising steps (default: the model's)");
    app.add_flag("--json", as_json, "print one JSON object");
    run.add_to(app);
  }

  TextToImageRequest request() const {
    TextToImageRequest request;
    request.prompt = prompt.value_or("red heart");
    request.seed = seed ? parse_unsigned("--seed", *seed) : 1;
    if (steps) request.num_inference_steps = parse_integer("--num-inference-steps", *steps);
    return request;
  }
};

struct EvalAttentionFlags {
  EvalRunFlags run;
  bool capture = false;
  std::optional<std::string> plot;
};

/// "int8 rotated smoothed"
std::string name_of(const AttentionQuantization& way) {
  return fmt::format("{}{}{}", kv_cache_dtype_name(way.dtype), way.rotates ? " rotated" : "",
                     way.smooths ? " smoothed" : "");
}

/// Every way, or those that flags leave.
std::vector<AttentionQuantization> ways_of(const KvCacheOptions& options) {
  if (options.skip_steps || options.skip_layers || options.fall_back_to_native)
    throw UsageError("--kv-cache-skip-steps, --kv-cache-skip-layers, --kv-cache-fallback: are not read here");
  std::vector<AttentionQuantization> ways;
  for (const AttentionQuantization& way : every_attention_quantization()) {
    if (way.dtype == options.dtype.value_or(way.dtype) && way.rotates == options.rotate.value_or(way.rotates) &&
        way.smooths == options.smooth_k.value_or(way.smooths)) {
      ways.push_back(way);
    }
  }
  if (ways.empty()) throw UsageError("--kv-cache-dtype: auto is given; allowed are int8 and fp8");
  return ways;
}

QualityPlot plot_of(const std::vector<EvaluatedAttention>& found, const std::vector<AttentionQuantization>& ways) {
  QualityPlot plot{
      "Quantised attention against float32, worst step", "layer, synthetic operands", "1 - cosine", {}, {}};
  for (const AttentionQuantization& way : ways) plot.series.push_back({name_of(way), {}});
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i % ways.size() == 0) plot.labels.push_back(found[i].layer);
    plot.series[i % ways.size()].values.push_back(1 - found[i].cosine);
  }
  return plot;
}

/// Without a run most flags say nothing.
void refuse_flags_of_a_run(const CLI::App& command) {
  constexpr std::array kRead{"help",
                             "config",
                             "json",
                             "plot",
                             "threads",
                             "attention-backend",
                             "kv-cache-dtype",
                             "quantize-attention-rotation",
                             "quantize-attention-smooth-k"};
  for (const CLI::Option* option : command.get_options()) {
    const std::string& flag = option->get_lnames().front();
    if (option->count() > 0 && std::find(kRead.begin(), kRead.end(), flag) == kRead.end())
      throw UsageError(fmt::format("--{}: is read with --capture only", flag));
  }
}

void eval_attention(const CLI::App& command, const EvalAttentionFlags& flags) {
  if (!flags.capture) refuse_flags_of_a_run(command);
  if (flags.plot == "-") throw UsageError("--plot: '-' is given; allowed is a file");
  const PipelineOptions options = flags.run.run.options();
  const std::vector<AttentionQuantization> ways = ways_of(options.kv_cache);
  if (flags.plot) check_output(*flags.plot);
  std::vector<EvaluatedAttention> found;
  if (flags.capture) {
    found = evaluate_attention(choose_model_folder(flags.run.model), options, flags.run.request(), ways,
                               &cancel_on_interrupt());
  }
  const std::vector<EvaluatedAttention> synthetic =
      evaluate_synthetic_attention(ways, options.attention_backend, plan_options(options).target.threads);
  found.insert(found.end(), synthetic.begin(), synthetic.end());
  if (flags.plot) write_output(*flags.plot, to_svg(plot_of(found, ways)));
  if (flags.run.as_json) {
    json rows = json::array();
    for (const EvaluatedAttention& row : found) {
      rows.push_back({{"layer", row.layer},
                      {"kv_cache_dtype", kv_cache_dtype_name(row.quantization.dtype)},
                      {"rotation", row.quantization.rotates ? "hadamard" : "none"},
                      {"smooth_k", row.quantization.smooths},
                      {"cosine", row.cosine},
                      {"relative_l2", row.relative_l2},
                      {"max_error", row.max_error}});
    }
    fmt::print("{}\n", json{{"schema_version", 1}, {"layers", rows}}.dump());
    return;
  }
  fmt::print("{:<22} {:<24} {:>10} {:>12} {:>10}\n", flags.capture ? "layer (worst step)" : "operands", "quantised",
             "cosine", "relative L2", "max error");
  for (const EvaluatedAttention& row : found) {
    fmt::print("{:<22} {:<24} {:>10.6f} {:>12.5f} {:>10.4f}\n", row.layer, name_of(row.quantization), row.cosine,
               row.relative_l2, row.max_error);
  }
}

void eval_linears(const EvalRunFlags& flags) {
  const LinearEvaluation result =
      evaluate_linears(choose_model_folder(flags.model), flags.run.options(), flags.request(), &cancel_on_interrupt());
  if (flags.as_json) {
    json layers = json::array();
    for (const EvaluatedLayer& layer : result.layers) {
      layers.push_back({{"name", layer.name}, {"how", layer.how}, {"quantized", layer.quantized}});
      if (layer.quantized)
        layers.back().update({{"kernel", layer.kernel}, {"cosine", layer.cosine}, {"relative_l2", layer.relative_l2}});
    }
    fmt::print(
        "{}\n",
        json{{"schema_version", 1}, {"layers", layers}, {"psnr_db", result.picture.psnr}, {"ssim", result.picture.ssim}}
            .dump());
    return;
  }
  fmt::print("{:<56} {:>10} {:>12}\n", "layer (worst step)", "cosine", "relative L2");
  for (const EvaluatedLayer& layer : result.layers) {
    if (layer.quantized) {
      fmt::print("{:<56} {:>10.6f} {:>12.5f}  {}\n", layer.name, layer.cosine, layer.relative_l2, layer.how);
    } else {
      fmt::print("{:<56} {:>23}  left: {}\n", layer.name, "", layer.how);
    }
  }
  fmt::print("picture: PSNR {:.1f} dB, SSIM {:.4f} against the unquantised one\n", result.picture.psnr,
             result.picture.ssim);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "What an acceleration costs in quality");
  command->require_subcommand(1);
  CLI::App* linears =
      command->add_subcommand("linears", "Quantised linear layers against unquantised ones, in a real run");
  auto flags = std::make_shared<EvalRunFlags>();
  flags->add_to(*linears);
  linears->callback([flags] { eval_linears(*flags); });

  CLI::App* attention = command->add_subcommand(
      "attention", "Quantised attention against attention as it is: on operands with outliers, in a real run");
  auto attention_flags = std::make_shared<EvalAttentionFlags>();
  attention->add_flag("--capture", attention_flags->capture,
                      "on the operands of every layer and step of a real run as well");
  add_value(*attention, "--plot", attention_flags->plot, "draw 1 - cosine of each layer into this SVG file");
  attention_flags->run.add_to(*attention);
  attention->callback([attention, attention_flags] { eval_attention(*attention, *attention_flags); });

  CLI::App* pictures = command->add_subcommand("picture", "Two pictures: PSNR and SSIM");
  auto names = std::make_shared<std::pair<std::string, std::string>>();
  pictures->add_option("wanted", names->first, "picture file")->required();
  pictures->add_option("given", names->second, "picture file of the same size")->required();
  pictures->callback([names] {
    const PictureQuality quality = compare_pictures(read_picture(names->first), read_picture(names->second));
    fmt::print("PSNR {:.2f} dB, SSIM {:.5f}\n", quality.psnr, quality.ssim);
  });
}

}  // namespace rondo::cli
