// `rondo eval`: what an acceleration costs in quality.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/model_folder.h"
#include "cli/run_flags.h"
#include "io/png.h"
#include "pipelines/attention_evaluation.h"
#include "pipelines/linear_evaluation.h"

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

void eval_attention(const EvalRunFlags& flags) {
  const std::vector<EvaluatedAttention> found = evaluate_attention(
      choose_model_folder(flags.model), flags.run.options(), flags.request(), &cancel_on_interrupt());
  if (flags.as_json) {
    json rows = json::array();
    for (const EvaluatedAttention& row : found) {
      rows.push_back({{"layer", row.layer},
                      {"kv_cache_dtype", "int8"},
                      {"rotation", row.rotated ? "hadamard" : "none"},
                      {"cosine", row.cosine},
                      {"relative_l2", row.relative_l2},
                      {"max_error", row.max_error}});
    }
    fmt::print("{}\n", json{{"schema_version", 1}, {"layers", rows}}.dump());
    return;
  }
  fmt::print("{:<22} {:<8} {:<10} {:>10} {:>12} {:>10}\n", "layer (worst step)", "dtype", "rotation", "cosine",
             "relative L2", "max error");
  for (const EvaluatedAttention& row : found) {
    fmt::print("{:<22} {:<8} {:<10} {:>10.6f} {:>12.5f} {:>10.4f}\n", row.layer, "int8",
               row.rotated ? "hadamard" : "none", row.cosine, row.relative_l2, row.max_error);
  }
}

void eval_linears(const EvalRunFlags& flags) {
  const LinearEvaluation result =
      evaluate_linears(choose_model_folder(flags.model), flags.run.options(), flags.request(), &cancel_on_interrupt());
  if (flags.as_json) {
    json layers = json::array();
    for (const EvaluatedLayer& layer : result.layers) {
      layers.push_back({{"name", layer.name}, {"how", layer.how}, {"quantized", layer.quantized}});
      if (layer.quantized) layers.back().update({{"cosine", layer.cosine}, {"relative_l2", layer.relative_l2}});
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

  CLI::App* attention =
      command->add_subcommand("attention", "Attention in 8 bits against attention as it is, in a real run");
  auto attention_flags = std::make_shared<EvalRunFlags>();
  attention_flags->add_to(*attention);
  attention->callback([attention_flags] { eval_attention(*attention_flags); });

  CLI::App* pictures = command->add_subcommand("picture", "Two pictures: PSNR and SSIM");
  auto names = std::make_shared<std::pair<std::string, std::string>>();
  pictures->add_option("wanted", names->first, "PNG file")->required();
  pictures->add_option("given", names->second, "PNG file of the same size")->required();
  pictures->callback([names] {
    const PictureQuality quality = compare_pictures(read_png(names->first), read_png(names->second));
    fmt::print("PSNR {:.2f} dB, SSIM {:.5f}\n", quality.psnr, quality.ssim);
  });
}

}  // namespace rondo::cli
