// `rondo quantize`: a model folder becomes a quantised one.
#include <fmt/format.h>

#include <memory>

#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/model_folder.h"
#include "cli/progress.h"
#include "cli/prompts_file.h"
#include "cli/run_flags.h"
#include "core/text.h"
#include "pipelines/plan_options.h"
#include "pipelines/quantize_model.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

struct QuantizeFlags {
  std::string model;
  std::optional<std::string> to;
  std::optional<std::string> output;
  std::optional<std::string> calibrate;
  std::optional<std::string> calibration_steps;
  std::optional<std::string> smoothing;
  bool quiet = false;
  QuantizationFlags quantization;
};

void run(const QuantizeFlags& flags) {
  if (!flags.to) throw UsageError("--to: none is given; allowed are w8a8, w8a16, w4a16, fp8 and fp8-per-tensor");
  if (!flags.output) throw UsageError("--output: none is given");
  PipelineOptions options;
  options.quantization = flags.quantization.options();
  options.quantization.format = *flags.to;
  QuantizeModelOptions quantize;
  quantize.policy = plan_options(options).quantization;
  if (flags.calibrate) quantize.calibration_prompts = read_prompts(*flags.calibrate);
  if (!flags.calibrate && (flags.calibration_steps || flags.smoothing))
    throw UsageError("--calibration-steps, --smoothing: are read with --calibrate only");
  quantize.calibration_steps = bounded("--calibration-steps", flags.calibration_steps, 4, 1, 1000);
  if (flags.smoothing) quantize.smoothing = parse_number("--smoothing", *flags.smoothing);
  if (!(quantize.smoothing >= 0 && quantize.smoothing <= 1))
    throw UsageError(fmt::format("--smoothing: {} is given; allowed is 0 to 1", *flags.smoothing));
  quantize.cancel = &cancel_on_interrupt();
  Progress progress;
  if (!flags.quiet) quantize.on_stage = [&](const std::string& stage) { progress.stage(stage); };

  const std::string folder = choose_model_folder(flags.model.empty() ? std::nullopt : std::optional(flags.model));
  const QuantizeModelReport report = quantize_model(folder, *flags.output, quantize);
  progress.finish();
  for (const QuantizedLayer& layer : report.layers) {
    fmt::print("{:<56} {}\n", layer.name,
               layer.quantized ? fmt::format("{}, weights off by {:.2f} %", layer.how, 100 * layer.relative_error)
                               : "left: " + layer.how);
  }
  fmt::print("{}: transformer {} in place of {}\n", *flags.output, human_bytes(report.bytes_after),
             human_bytes(report.bytes_before));
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("quantize", "Write a model folder with a quantised transformer");
  auto flags = std::make_shared<QuantizeFlags>();
  command->add_option("model", flags->model, "folder in diffusers layout (default: the bundled model)");
  add_value(*command, "--to", flags->to, "w8a8, w8a16, w4a16, fp8 or fp8-per-tensor");
  add_value(*command, "-o,--output", flags->output, "the new folder");
  add_value(*command, "--calibrate", flags->calibrate,
            "smooth inputs by what these prompts show, one a line in a file (SmoothQuant)");
  add_value(*command, "--calibration-steps", flags->calibration_steps, "denoising steps a prompt (default 4)");
  add_value(*command, "--smoothing", flags->smoothing, "0 to 1: how much of an input's range weights take (0.5)");
  command->add_flag("-q,--quiet", flags->quiet, "no progress");
  flags->quantization.add_to(*command);
  command->callback([flags] { run(*flags); });
}

}  // namespace rondo::cli
