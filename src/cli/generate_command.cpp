#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "backends/compute_dtype.h"
#include "cli/cancel.h"
#include "cli/commands.h"
#include "cli/model_folder.h"
#include "cli/output_names.h"
#include "cli/parallel_flags.h"
#include "cli/progress.h"
#include "cli/prompts_file.h"
#include "cli/request_json.h"
#include "cli/run_flags.h"
#include "cli/stderr.h"
#include "cli/trace_json.h"
#include "core/cpu_level.h"
#include "core/hash.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/trace.h"
#include "io/output_file.h"
#include "io/picture_file.h"
#include "parallel/agreement.h"
#include "parallel/world.h"
#include "pipelines/attention_evaluation.h"
#include "pipelines/component_files.h"
#include "pipelines/flux_components.h"
#include "pipelines/instance_pool.h"
#include "pipelines/plan_options.h"
#include "rondo/error.h"
#include "rondo/version.h"

namespace rondo::cli {
namespace {

using nlohmann::json;

struct GenerateFlags {
  std::optional<std::string> model;
  std::optional<std::string> from;
  std::optional<std::string> output;
  std::optional<std::string> report;
  std::optional<std::string> trace;
  std::vector<std::string> words;  // that stand without a flag: the prompt
  std::optional<std::string> output_quality;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_2;
  std::optional<std::string> negative_prompt;
  std::optional<std::string> negative_prompt_2;
  std::optional<std::string> size;
  std::optional<std::string> width;
  std::optional<std::string> height;
  std::optional<std::string> num_inference_steps;
  std::optional<std::string> guidance_scale;
  std::optional<std::string> true_cfg_scale;
  std::optional<std::string> seed;
  std::optional<std::string> num_images_per_prompt;
  std::optional<std::string> max_sequence_length;
  std::optional<std::string> prompts_file;
  std::optional<std::string> instances;
  bool quiet = false;
  RunFlags run;
  ParallelFlags parallel;
};

/// Flags win over what stands in `request`.
void apply_flags(const GenerateFlags& flags, TextToImageRequest& request) {
  const auto set_text = [](std::optional<std::string>& target, const std::optional<std::string>& flag) {
    if (flag) target = flag;
  };
  const auto set_integer = [](std::optional<std::int64_t>& target, const char* name,
                              const std::optional<std::string>& flag) {
    if (flag) target = parse_integer(name, *flag);
  };
  const auto set_number = [](std::optional<double>& target, const char* name, const std::optional<std::string>& flag) {
    if (flag) target = parse_number(name, *flag);
  };
  // A new prompt replaces the stored prompt of both encoders.
  if (flags.prompt) request.prompt_2.reset();
  if (flags.negative_prompt) request.negative_prompt_2.reset();
  set_text(request.prompt, flags.prompt);
  set_text(request.prompt_2, flags.prompt_2);
  set_text(request.negative_prompt, flags.negative_prompt);
  set_text(request.negative_prompt_2, flags.negative_prompt_2);
  if (flags.size) {
    if (flags.width || flags.height)
      throw UsageError("--size: --width or --height is given too; allowed is one of them");
    std::tie(request.width, request.height) = parse_size("--size", *flags.size);
  }
  set_integer(request.width, "--width", flags.width);
  set_integer(request.height, "--height", flags.height);
  set_integer(request.num_inference_steps, "--num-inference-steps", flags.num_inference_steps);
  set_number(request.guidance_scale, "--guidance-scale", flags.guidance_scale);
  set_number(request.true_cfg_scale, "--true-cfg-scale", flags.true_cfg_scale);
  set_integer(request.num_images_per_prompt, "--num-images-per-prompt", flags.num_images_per_prompt);
  set_integer(request.max_sequence_length, "--max-sequence-length", flags.max_sequence_length);
  if (flags.seed) request.seed = parse_unsigned("--seed", *flags.seed);
}

/// What is said twice, in two ways: of a config file's and the caller's own the caller's counts. (The caller's own two
/// are refused.)
void drop_what_is_overridden(GenerateFlags& flags, const std::map<std::string, std::string>& from_file) {
  const auto drop = [&](const char* name, std::optional<std::string>& value) {
    if (from_file.contains(name)) value.reset();
  };
  if (!flags.words.empty()) drop("prompt", flags.prompt);
  if (flags.size && (flags.width || flags.height)) {
    drop("width", flags.width);
    drop("height", flags.height);
    if (flags.width || flags.height) drop("size", flags.size);
  }
  if (picture_format(flags.output.value_or("")) == PictureFormat::png) drop("output-quality", flags.output_quality);
}

/// The prompt may stand without its flag.
void take_words(GenerateFlags& flags) {
  if (flags.words.empty()) return;
  if (flags.words.size() > 1) {
    throw UsageError(fmt::format("prompt: '{}' and '{}' stand without a flag; allowed is one text, in quotes",
                                 printable(flags.words[0]), printable(flags.words[1])));
  }
  if (flags.prompt)
    throw UsageError(fmt::format("--prompt: '{}' is given too; allowed is one of them", printable(flags.words[0])));
  flags.prompt = flags.words[0];
}

StoredRequest collect_request(const GenerateFlags& flags) {
  StoredRequest stored = flags.from ? read_stored_request(*flags.from) : StoredRequest{};
  apply_flags(flags, stored.request);
  if (flags.prompts_file) {
    if (flags.prompt) throw UsageError("--prompt: --prompts-file is given too; allowed is one of them");
    if (stored.request.num_images_per_prompt.value_or(1) != 1)
      throw UsageError("--num-images-per-prompt: with --prompts-file allowed is 1");
    stored.request.prompt = "";  // each line's turn comes
    if (flags.trace) throw UsageError("--trace: takes one picture's run; --prompts-file is given too");
  } else if (flags.instances) {
    throw UsageError("--instances: --prompts-file is missing; instances share its prompts");
  }
  if (!stored.request.prompt) throw UsageError("--prompt: none is given, such as rondo generate \"a red heart\"");
  return stored;
}

ResolvedTextToImageRequest resolve(const TextToImagePipeline& pipeline, const GenerateFlags& flags,
                                   const TextToImageRequest& request) {
  try {
    return pipeline.resolve(request);
  } catch (const InvalidArgument& error) {
    if (!flags.from) throw;
    TextToImageRequest given;
    given.prompt = request.prompt;
    apply_flags(flags, given);
    pipeline.resolve(given);  // throws as well when a flag is to blame
    throw FileError(fmt::format("{} (its metadata): {}", *flags.from, error.what()));
  }
}

json component_to_json(const RunReport::Component& c) {
  return {{"name", c.name},
          {"dtype", c.dtype},
          {"weight_bytes", c.weight_bytes},
          {"resident_bytes", c.resident_bytes},
          {"device", c.device},
          {"placement", c.placement},
          {"offload", c.offload},
          {"cuda_graph", c.cuda_graph},
          {"arena_bytes", c.arena_bytes},
          {"naive_bytes", c.naive_bytes},
          {"kernels", c.kernels},
          {"passes", c.passes}};
}

json report_to_json(const RunReport& report, const ResolvedTextToImageRequest& request,
                    const TextToImagePipeline& pipeline, const std::string& model, double load_ms, double total_ms) {
  json stages = json::array({{{"name", "open"}, {"duration_ms", load_ms}}});
  for (const RunReport::Stage& stage : report.stages)
    stages.push_back({{"name", stage.name}, {"duration_ms", stage.duration_ms}});
  json steps = json::array();
  for (std::size_t i = 0; i < report.denoise_steps_ms.size(); ++i) {
    steps.push_back({{"step", i % static_cast<std::size_t>(request.num_inference_steps)},
                     {"duration_ms", report.denoise_steps_ms[i]}});
  }
  json components = json::array();
  for (const RunReport::Component& component : report.components) components.push_back(component_to_json(component));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {{"schema_version", 1},
          {"rondo", {{"version", version()}, {"commit", commit()}}},
          {"model", model},
          {"dtype", dtype_name(pipeline.dtype())},
          {"threads", pipeline.threads()},
          {"cpu", {{"model", cpu_model_name()}, {"level", cpu_level_name(cpu_level())}}},
          {"request",
           {{"prompt", request.prompt},
            {"width", request.width},
            {"height", request.height},
            {"num_inference_steps", request.num_inference_steps},
            {"guidance_scale", request.guidance_scale},
            {"true_cfg_scale", request.true_cfg_scale},
            {"seed", request.seed},
            {"num_images_per_prompt", request.num_images_per_prompt},
            {"max_sequence_length", request.max_sequence_length}}},
          {"notes", report.notes},
          {"total_duration_ms", total_ms},
          {"steps", stages},
          {"denoise_steps_ms", steps},
          {"peak_memory_bytes", static_cast<std::uint64_t>(usage.ru_maxrss) * 1024},
          {"components", components}};
}

/// A file's bytes, with the request in its metadata, so that --from can run it again.
std::vector<std::byte> encode_with_request(const GeneratedImage& picture, const ResolvedTextToImageRequest& request,
                                           const std::string& name, int quality, const std::string& model,
                                           DType dtype) {
  return encode_picture(picture.image, picture_format(name), quality,
                        dump_json(request_to_json(request, picture, model, dtype), -1));
}

/// --output-quality, which not every format reads. Throws UsageError.
int quality_of(const GenerateFlags& flags, const std::vector<std::string>& names) {
  constexpr std::int64_t kDefault = 90;
  const std::int64_t quality = bounded("--output-quality", flags.output_quality, kDefault, 1, 100);
  if (flags.output_quality && picture_format(names.front()) == PictureFormat::png)
    throw UsageError("--output-quality: is read for .jpg and .webp only; a PNG loses nothing");
  return static_cast<int>(quality);
}

/// Refuses, before any work, what cannot be written.
void check_pictures(const std::vector<std::string>& names, const ResolvedTextToImageRequest& request,
                    const std::string& model, DType dtype) {
  check_picture(picture_format(names.front()), request.width, request.height,
                dump_json(request_to_json(request, {}, model, dtype), -1));
}

void check_outputs(const GenerateFlags& flags, const std::vector<std::string>& names) {
  for (const std::string& name : names) check_output(name);
  std::vector<std::string> taken = names;
  for (const auto& [flag, name] : {std::pair("--report", flags.report), {"--trace", flags.trace}}) {
    if (!name) continue;
    check_output(*name);
    if (std::find(taken.begin(), taken.end(), *name) != taken.end())
      throw UsageError(fmt::format("{}: '{}' is another result's name as well", flag, *name));
    taken.push_back(*name);
  }
}

/// Rank 0 of several speaks for all.
bool speaks(const PipelineOptions& options) { return options.world == nullptr || options.world->rank() == 0; }

/// A picture for each prompt of a file, the i-th with seed + i, over several instances.
void run_prompts(const GenerateFlags& flags, const TextToImageRequest& given, const std::string& model,
                 PipelineOptions options) {
  const Trace clock;
  const auto instances = static_cast<int>(bounded("--instances", flags.instances, 1, 1, 64));
  if (options.world != nullptr && instances > 1)
    throw UsageError("--instances: ranks work together on one picture at a time; allowed is 1");
  if (options.parallel.data_parallel)
    throw UsageError("--data-parallel: shares out the pictures of one prompt; --prompts-file is given");
  if (!options.threads) options.threads = std::max(1, default_threads() / instances);
  TextToImagePipeline pipeline = TextToImagePipeline::open(model, options);
  std::vector<ResolvedTextToImageRequest> requests;
  const std::vector<std::string> prompts = read_prompts(*flags.prompts_file);
  if (options.world != nullptr) {
    const std::array same{AgreedValue{
        "prompts-file",
        fmt::format("{} prompts, hash {:x}", prompts.size(), hash_of(fmt::format("{}", fmt::join(prompts, "\n"))))}};
    require_agreement(options.world->implementation().communicator(), same);
  }
  for (const std::string& prompt : prompts) {
    TextToImageRequest request = given;
    request.prompt = prompt;
    if (!requests.empty()) request.seed = requests.front().seed + requests.size();
    requests.push_back(resolve(pipeline, flags, request));
  }
  const std::vector<std::string> names = output_names(flags.output.value_or("rondo-{seed}.png"), requests.front().seed,
                                                      static_cast<std::int64_t>(requests.size()));
  const int quality = quality_of(flags, names);
  for (const ResolvedTextToImageRequest& request : requests) check_pictures(names, request, model, pipeline.dtype());
  if (speaks(options)) check_outputs(flags, names);
  if (!flags.quiet && speaks(options)) {
    print_error("{}: {} prompts, {} instances with {} threads each, {}\n", model, requests.size(), instances,
                pipeline.threads(), dtype_name(pipeline.dtype()));
  }
  InstancePool pool(pipeline, instances);
  const double load_ms = clock.now_ms();
  const std::vector<InstanceResult> results = pool.run(
      requests,
      [&](std::size_t i, GeneratedImage&& picture) {
        write_output(names[i], encode_with_request(picture, requests[i], names[i], quality, model, pipeline.dtype()));
        if (names[i] != "-" && flags.report != "-") fmt::print("{}\n", names[i]);
      },
      &cancel_on_interrupt());
  const double total_ms = clock.now_ms();
  json pictures = json::array();
  std::size_t failed = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!results[i].error.empty()) {
      ++failed;
      print_error("rondo: {}: {}\n", names[i], printable(results[i].error, 2000));
    }
    pictures.push_back(
        report_to_json(results[i].report, requests[i], pipeline, model, load_ms, results[i].duration_ms));
    pictures.back().update({{"output", names[i]}, {"instance", results[i].instance}, {"error", results[i].error}});
  }
  if (flags.report && speaks(options)) {
    const double seconds = (total_ms - load_ms) * 1e-3;
    const json report{{"schema_version", 1},
                      {"instances", instances},
                      {"threads_each", pipeline.threads()},
                      {"total_duration_ms", total_ms},
                      {"pictures_per_second", static_cast<double>(results.size() - failed) / seconds},
                      {"pictures", std::move(pictures)}};
    write_output(*flags.report, dump_json(report, 2) + "\n");
  }
  if (failed > 0) throw Error(fmt::format("{} of {} pictures failed", failed, results.size()));
}

/// Refuses what says how attention is quantised where it is not. "auto:0.999" for --kv-cache-skip-layers becomes the
/// layers that would fall below this cosine, by a run with native attention.
void choose_native_layers(const GenerateFlags& flags, const TextToImageRequest& given, const std::string& model,
                          PipelineOptions& options) {
  constexpr std::string_view kAutomatic = "auto:";
  const std::string layers = options.kv_cache.skip_layers.value_or("");
  const bool is_automatic = layers.starts_with(kAutomatic);
  double least = 0;
  if (is_automatic) {
    least = parse_number("--kv-cache-skip-layers", layers.substr(kAutomatic.size()));
    if (!(least > 0 && least <= 1)) {
      throw UsageError(fmt::format(
          "--kv-cache-skip-layers: '{}' is given; allowed is auto: and a cosine above 0, up to 1", printable(layers)));
    }
    options.kv_cache.skip_layers = "";
  }
  const ComputeOptions compute = compute_options(options);
  const KvCachePolicy policy = settle_attention(DiffusersFolder::open(model).config("transformer"), compute.dtype,
                                                compute.plan, options.kv_cache);
  if (!is_automatic || !policy.active()) return;
  TextToImagePipeline::open(model, options);  // refuses what else could not run
  TextToImageRequest request = given;
  if (flags.prompts_file) request.prompt = read_prompts(*flags.prompts_file).front();
  const std::array ways{policy.quantization};
  options.kv_cache.skip_layers =
      layers_below(evaluate_attention(model, options, request, ways, &cancel_on_interrupt()), least);
  print_error("note: attention: layers that stay native for a cosine of {}: {}\n", least,
              options.kv_cache.skip_layers->empty() ? "none" : *options.kv_cache.skip_layers);
}

void run_request(const GenerateFlags& flags, const StoredRequest& stored, const std::string& model,
                 const PipelineOptions& options, const Trace& clock) {
  TextToImagePipeline pipeline = TextToImagePipeline::open(model, options);
  const ResolvedTextToImageRequest request = resolve(pipeline, flags, stored.request);
  const std::vector<std::string> names =
      output_names(flags.output.value_or("rondo-{seed}.png"), request.seed, request.num_images_per_prompt);
  const int quality = quality_of(flags, names);
  check_pictures(names, request, model, pipeline.dtype());
  if (speaks(options)) check_outputs(flags, names);
  const double load_ms = clock.now_ms();

  Progress progress;
  RunObserver observer;
  observer.cancel = &cancel_on_interrupt();
  if (!speaks(options)) {
    // One progress bar.
  } else if (!flags.quiet) {
    print_error("{}: {} x {}, {} steps, seed {}, {}, {} threads\n", model, request.width, request.height,
                request.num_inference_steps, request.seed, dtype_name(pipeline.dtype()), pipeline.threads());
    for (const std::string& line : pipeline.rank_groups()) print_error("{}\n", line);
    observer.on_stage = [&](const std::string& name) { progress.stage(name); };
    observer.on_step = [&](std::int64_t step, std::int64_t steps) { progress.step(step, steps); };
  } else if (!stored.request.seed) {
    print_error("seed: {}\n", request.seed);
  }
  const RunReport report = pipeline.generate(
      request,
      [&](GeneratedImage&& picture) {
        const std::string& name = names[static_cast<std::size_t>(picture.index)];
        write_output(name, encode_with_request(picture, request, name, quality, model, pipeline.dtype()));
        progress.finish();
        if (name != "-" && flags.report != "-") fmt::print("{}\n", name);
      },
      observer);
  progress.finish();
  if (!speaks(options)) return;
  for (const std::string& note : report.notes) print_error("note: {}\n", note);
  if (flags.trace) write_output(*flags.trace, trace_to_json(report));
  if (flags.report) {
    write_output(*flags.report,
                 dump_json(report_to_json(report, request, pipeline, model, load_ms, clock.now_ms()), 2) + "\n");
  }
}

void run(GenerateFlags& flags, const std::map<std::string, std::string>& from_file) {
  const Trace clock;
  drop_what_is_overridden(flags, from_file);
  take_words(flags);
  const StoredRequest stored = collect_request(flags);
  const std::string model = choose_model_folder(flags.model ? flags.model : stored.model);
  PipelineOptions options = flags.run.options(stored.dtype);
  choose_native_layers(flags, stored.request, model, options);
  options.trace = flags.trace.has_value();
  flags.parallel.apply(options);
  if (flags.prompts_file) {
    run_prompts(flags, stored.request, model, options);
  } else {
    run_request(flags, stored, model, options, clock);
  }
  if (options.world != nullptr) options.world->finish();
}

}  // namespace

void add_generate_command(CLI::App& app, const std::map<std::string, std::string>& from_file) {
  CLI::App* command = app.add_subcommand("generate", "Make pictures from a prompt");
  auto flags = std::make_shared<GenerateFlags>();
  GenerateFlags& f = *flags;
  add_value(*command, "--model,--model-path", f.model, "folder in diffusers layout (default: the bundled model)");
  command->add_option("prompt", f.words, "what to draw; the same as --prompt")->type_name("");
  add_value(*command, "-p,--prompt", f.prompt, "what to draw");
  add_value(*command, "--prompt-2", f.prompt_2, "prompt of the second text encoder (default: the prompt)");
  add_value(*command, "--negative-prompt", f.negative_prompt, "what to steer away from, with --true-cfg-scale above 1");
  add_value(*command, "--negative-prompt-2", f.negative_prompt_2, "the same for the second text encoder");
  add_value(*command, "--true-cfg-scale", f.true_cfg_scale, "classifier-free guidance; above 1 each step runs twice");
  add_value(*command, "--guidance-scale", f.guidance_scale, "distilled guidance, for models with a guidance embedding");
  add_value(*command, "--num-inference-steps,--steps", f.num_inference_steps, "denoising steps, 1 to 1000");
  add_value(*command, "--size", f.size, "WIDTHxHEIGHT in pixels; the same as --width and --height");
  add_value(*command, "--width", f.width, "pixels");
  add_value(*command, "--height", f.height, "pixels");
  add_value(*command, "--seed", f.seed, "0 to 2^64 - 1 (default: drawn and printed)");
  add_value(*command, "--num-images-per-prompt", f.num_images_per_prompt, "pictures; the i-th has seed + i");
  add_value(*command, "--max-sequence-length", f.max_sequence_length, "tokens of the second text encoder");
  add_value(*command, "--prompts-file", f.prompts_file, "a prompt a line; the i-th picture has seed + i");
  add_value(*command, "--instances", f.instances,
            "pictures drawn at a time, on one copy of the weights (default 1); threads are shared out");
  add_value(*command, "--from", f.from, "run a picture's stored request again; flags win over it");
  add_value(*command, "-o,--output", f.output,
            "file (.png, .jpg or .webp), pattern with {seed} and {index}, or - (default rondo-{seed}.png)");
  add_value(*command, "--output-quality", f.output_quality, "of .jpg and .webp: 1 to 100 (default 90)");
  add_value(*command, "--trace", f.trace, "write when every operator ran, for Perfetto or chrome://tracing");
  add_value(*command, "--report", f.report, "write times, memory and choices as JSON to this file");
  command->add_flag("-q,--quiet", f.quiet, "no progress");
  f.run.add_to(*command);
  f.parallel.add_to(*command);
  command->callback([flags, &from_file] { run(*flags, from_file); });
}

}  // namespace rondo::cli
