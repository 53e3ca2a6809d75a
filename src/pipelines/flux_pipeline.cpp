#include "pipelines/flux_pipeline.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "core/log.h"
#include "core/text.h"
#include "core/trace.h"
#include "pipelines/kv_cache_options.h"
#include "pipelines/node_events.h"
#include "pipelines/plan_options.h"
#include "rondo/error.h"
#include "schedulers/noise.h"

namespace rondo {
namespace {

constexpr std::int64_t kDefaultSteps = 28;
constexpr double kDefaultGuidance = 3.5;
constexpr std::int64_t kMostSteps = 1000;
constexpr std::int64_t kMostImages = 10000;
/// Up to here two lanes were measured faster than both branches in one run (docs/performance.md).
constexpr double kMostFlopsForLanes = 5e9;
constexpr std::int64_t kLongestSide = 16384;
constexpr std::size_t kLongestPrompt = 65536;

JsonConfig load_generation_defaults(const DiffusersFolder& folder) {
  const std::filesystem::path file = folder.path() / "generation_config.json";
  if (!std::filesystem::exists(file)) return {nlohmann::json::object(), file.string()};
  JsonConfig config = JsonConfig::load(file);
  constexpr std::array kKnown{"width",          "height",          "num_inference_steps", "guidance_scale",
                              "true_cfg_scale", "negative_prompt", "max_sequence_length"};
  for (const auto& [key, value] : config.object().items()) {
    if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end()) {
      config.refuse(key, fmt::format("known keys are {}", fmt::join(kKnown, ", ")));
    }
  }
  return config;
}

template <typename... Args>
void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) throw InvalidArgument(fmt::format(format, std::forward<Args>(args)...));
}

void check_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  require(value >= least && value <= most, "{}: {} is given; allowed is {} to {}", name, value, least, most);
}

void check_text(const char* name, const std::string& text) {
  // Encoders read at most 512 tokens; SentencePiece takes quadratic time on text that no piece covers.
  require(text.size() <= kLongestPrompt, "{}: has {} bytes; allowed are up to {}", name, text.size(), kLongestPrompt);
  require(is_valid_utf8(text), "{}: '{}' is not valid UTF-8", name, printable(text, 40));
}

void check_side(const char* name, std::int64_t pixels, std::int64_t unit) {
  check_range(name, pixels, 1, kLongestSide);
  if (pixels % unit == 0) return;
  const std::int64_t below = pixels / unit * unit;
  require(false, "{}: {} is given; allowed are multiples of {}: the nearest {} {}", name, pixels, unit,
          below == 0 ? "is" : "are", below == 0 ? std::to_string(unit) : fmt::format("{} and {}", below, below + unit));
}

std::uint64_t draw_seed() {
  std::random_device device;
  return device();  // 32 bits are easy to type again
}

/// What all ranks must have asked for alike.
std::vector<AgreedValue> request_values(const ResolvedTextToImageRequest& r) {
  return {{"prompt", r.prompt},
          {"prompt_2", r.prompt_2},
          {"negative_prompt", r.negative_prompt},
          {"negative_prompt_2", r.negative_prompt_2},
          {"size", fmt::format("{} x {}", r.width, r.height)},
          {"num_inference_steps", std::to_string(r.num_inference_steps)},
          {"guidance_scale", std::to_string(r.guidance_scale)},
          {"true_cfg_scale", std::to_string(r.true_cfg_scale)},
          {"seed", std::to_string(r.seed)},
          {"num_images_per_prompt", std::to_string(r.num_images_per_prompt)},
          {"max_sequence_length", std::to_string(r.max_sequence_length)},
          {"kv-cache", to_text(r.kv_cache)}};
}

/// The same of a request as it is given: what all ranks resolve alike, they refuse alike.
std::vector<AgreedValue> request_values(const TextToImageRequest& r) {
  const auto text = [](const auto& value) { return value ? fmt::format("{}", *value) : std::string("unset"); };
  return {{"prompt", text(r.prompt)},
          {"prompt_2", text(r.prompt_2)},
          {"negative_prompt", text(r.negative_prompt)},
          {"negative_prompt_2", text(r.negative_prompt_2)},
          {"size", fmt::format("{} x {}", text(r.width), text(r.height))},
          {"num_inference_steps", text(r.num_inference_steps)},
          {"guidance_scale", text(r.guidance_scale)},
          {"true_cfg_scale", text(r.true_cfg_scale)},
          {"seed", text(r.seed)},
          {"num_images_per_prompt", text(r.num_images_per_prompt)},
          {"max_sequence_length", text(r.max_sequence_length)},
          {"kv-cache", to_text(r.kv_cache)}};
}

ComputeOptions for_other_parts(ComputeOptions options) {
  options.plan = options_of_other_parts(std::move(options.plan));
  return options;
}

/// A picture's rows lie on all ranks that share its tokens. Its attention, with one head, can only be a ring.
ComputeOptions for_pictures(ComputeOptions options) {
  const SequenceParallel tokens = options.plan.parallel;
  options = for_other_parts(std::move(options));
  options.plan.parallel.degrees.ring = tokens.ranks();
  options.plan.parallel.place.ring = tokens.rank();
  return options;
}

}  // namespace

FluxPipeline::FluxPipeline(const DiffusersFolder& folder, const ComputeOptions& options)
    : ranks_(options.groups, options.plan.target.device.get()),
      tap_(options.tap),
      trace_(options.trace),
      cfg_fusion_(options.cfg_fusion),
      vae_tiling_(options.vae_tiling),
      lanes_(options.lanes),
      layerwise_offload_(options.layerwise_offload),
      memory_limit_(options.memory_limit),
      threads_(options.plan.target.threads),
      device_(options.plan.target.device),
      skip_steps_(options.plan.quantization.skip_steps),
      generation_defaults_(load_generation_defaults(folder)),
      scheduler_(FlowMatchEulerScheduler::parse(folder.scheduler_config())),
      clip_(folder, for_other_parts(options)),
      t5_(folder, for_other_parts(options)),
      transformer_(folder, options),
      vae_(folder, for_pictures(options)) {
  const FluxTransformerConfig& t = transformer_.config();
  const auto agree = [&](const char* what, std::int64_t given, std::int64_t needed) {
    if (given != needed) {
      throw FileError(
          fmt::format("{}: {} is {}, but the transformer takes {}", folder.path().string(), what, given, needed));
    }
  };
  agree("text_encoder's hidden_size", clip_.config().hidden_size, t.pooled_projection_dim);
  agree("text_encoder_2's d_model", t5_.config().d_model, t.joint_attention_dim);
  agree("vae's latent_channels x 4", vae_.config().latent_channels * 4, t.in_channels);
  try {
    fill_in({});  // the folder's own defaults must hold
  } catch (const InvalidArgument& error) {
    throw FileError(fmt::format("{}: {}", generation_defaults_.source(), error.what()));
  }
}

FluxPipeline::FluxPipeline(const FluxPipeline& other, ClipEncoder clip, T5Encoder t5, FluxDenoiser transformer,
                           LatentDecoder vae)
    : ranks_(other.ranks_),
      tap_(other.tap_),
      trace_(other.trace_),
      cfg_fusion_(other.cfg_fusion_),
      vae_tiling_(other.vae_tiling_),
      lanes_(other.lanes_),
      layerwise_offload_(other.layerwise_offload_),
      memory_limit_(other.memory_limit_),
      threads_(other.threads_),
      device_(other.device_),
      skip_steps_(other.skip_steps_),
      generation_defaults_(other.generation_defaults_),
      scheduler_(other.scheduler_),
      clip_(std::move(clip)),
      t5_(std::move(t5)),
      transformer_(std::move(transformer)),
      vae_(std::move(vae)) {}

FluxPipeline FluxPipeline::instance() const {
  if (!ranks_.alone()) throw Unsupported("instances: this pipeline shares its work with other ranks; allowed is one");
  return {*this, clip_.instance(), t5_.instance(), transformer_.instance(), vae_.instance()};
}

ResolvedTextToImageRequest FluxPipeline::resolve(const TextToImageRequest& request) const {
  ranks_.require_same(request_values(request));
  ResolvedTextToImageRequest resolved = fill_in(request);
  require(ranks_.degrees().cfg == 1 || has_two_branches(resolved),
          "cfg-parallel: this request has one branch; allowed are true_cfg_scale above 1 and a negative prompt");
  const auto [rows, columns] = grid_of(resolved);
  transformer_.check_attention(resolved.kv_cache, resolved.max_sequence_length + rows * columns);
  return resolved;
}

ResolvedTextToImageRequest FluxPipeline::fill_in(const TextToImageRequest& request) const {
  const JsonConfig& defaults = generation_defaults_;
  const auto integer = [&](const std::optional<std::int64_t>& given, const char* key, std::int64_t absent) {
    return given ? *given : defaults.integer(key, absent, INT64_MIN, INT64_MAX);
  };
  const auto number = [&](const std::optional<double>& given, const char* key, double absent) {
    return given ? *given : defaults.number(key, absent);
  };
  ResolvedTextToImageRequest r;
  r.prompt = request.prompt.value_or("");
  // As in diffusers, an empty second prompt means the first.
  r.prompt_2 = request.prompt_2.value_or("").empty() ? r.prompt : *request.prompt_2;
  r.negative_prompt = request.negative_prompt ? *request.negative_prompt : defaults.text("negative_prompt", "");
  r.negative_prompt_2 = request.negative_prompt_2.value_or("").empty() ? r.negative_prompt : *request.negative_prompt_2;
  check_text("prompt", r.prompt);
  check_text("prompt_2", r.prompt_2);
  check_text("negative_prompt", r.negative_prompt);
  check_text("negative_prompt_2", r.negative_prompt_2);

  // A sample_size that is no whole number of tokens still has to give a size that runs.
  const std::int64_t unit = pixels_per_token();
  const std::int64_t side = std::max(unit, vae_.config().sample_size / unit * unit);
  r.width = integer(request.width, "width", side);
  r.height = integer(request.height, "height", side);
  check_side("width", r.width, unit);
  check_side("height", r.height, unit);
  r.num_inference_steps = integer(request.num_inference_steps, "num_inference_steps", kDefaultSteps);
  check_range("num_inference_steps", r.num_inference_steps, 1, kMostSteps);
  r.guidance_scale = number(request.guidance_scale, "guidance_scale", kDefaultGuidance);
  require(std::isfinite(r.guidance_scale) && r.guidance_scale >= 0 && r.guidance_scale <= 1000,
          "guidance_scale: {} is given; allowed is 0 to 1000", r.guidance_scale);
  r.true_cfg_scale = number(request.true_cfg_scale, "true_cfg_scale", 1.0);
  require(std::isfinite(r.true_cfg_scale) && r.true_cfg_scale >= 0 && r.true_cfg_scale <= 1000,
          "true_cfg_scale: {} is given; allowed is 0 to 1000", r.true_cfg_scale);
  r.num_images_per_prompt = request.num_images_per_prompt.value_or(1);
  check_range("num_images_per_prompt", r.num_images_per_prompt, 1, kMostImages);
  r.max_sequence_length = integer(request.max_sequence_length, "max_sequence_length", t5_.default_sequence());
  check_range("max_sequence_length", r.max_sequence_length, 1, kLongestSequence);
  r.seed = request.seed ? *request.seed : ranks_.agree_on(draw_seed());
  r.kv_cache = request.kv_cache;
  transformer_.kv_cache_for(r.kv_cache);  // refuses what could not run
  if (request.guidance_scale && !transformer_.config().guidance_embeds) {
    r.notes.emplace_back("guidance_scale: is not read: the model has no guidance embedding");
  }
  if (!request.max_sequence_length && !defaults.has("max_sequence_length") &&
      r.max_sequence_length < kLongestSequence) {
    r.notes.push_back(fmt::format("max_sequence_length: {} is the tokenizer's model_max_length; diffusers takes {}",
                                  r.max_sequence_length, kLongestSequence));
  }
  const bool has_negative = request.negative_prompt || defaults.has("negative_prompt");
  if ((request.negative_prompt || request.negative_prompt_2) && r.true_cfg_scale <= 1) {
    r.notes.emplace_back("negative_prompt: is not read: true_cfg_scale is not above 1");
  } else if (r.true_cfg_scale > 1 && !has_negative) {
    // As in diffusers; negative_prompt_2 alone counts for nothing there.
    r.notes.push_back(
        fmt::format("true_cfg_scale: {} is not read: no negative_prompt is given (it may be empty)", r.true_cfg_scale));
    r.true_cfg_scale = 1;
  }
  return r;
}

void FluxPipeline::use_attention(const ResolvedTextToImageRequest& request, RunReport& report) {
  const KvCachePolicy policy = transformer_.kv_cache_for(request.kv_cache);
  transformer_.runner().set_kv_cache(policy);
  if (!policy.fallback_reason.empty())
    log(LogLevel::warning, "kv-cache-dtype: attention runs native: {}", policy.fallback_reason);
  if (!policy.active() && policy.fallback_reason.empty()) return;
  report.notes.push_back(fmt::format("attention: {}; {} layers, {} steps", policy.to_string(),
                                     transformer_.config().layers(), request.num_inference_steps));
  if (!policy.skip_steps.empty() && policy.skip_steps.back() >= request.num_inference_steps) {
    report.notes.push_back(fmt::format("kv-cache-skip-steps: {} lies beyond the request's steps, 0 to {}",
                                       policy.skip_steps.back(), request.num_inference_steps - 1));
  }
}

FluxPipeline::SideBySide* FluxPipeline::lane_parts() {
  if (side_by_side_ == nullptr) {
    const int each = threads_ / 2;
    side_by_side_.reset(new SideBySide{t5_.instance(each), clip_.instance(each), transformer_.instance(each),
                                       transformer_.instance(each), vae_.instance(each), vae_.instance(each)});
  }
  return side_by_side_.get();
}

FluxPipeline::SideBySide* FluxPipeline::tiles_side_by_side(const ResolvedTextToImageRequest& request,
                                                           RunReport& report) {
  // They take thrice the memory (two tiles, and one left over with all threads) and gain 5 %: only where asked for.
  if (lanes_ != Lanes::two || !decodes_in_tiles(request)) return nullptr;
  report.notes.push_back(fmt::format("lanes: two tiles at a time, {} threads each", threads_ / 2));
  return lane_parts();
}

FluxPipeline::SideBySide* FluxPipeline::side_by_side(const ResolvedTextToImageRequest& request, RunReport& report) {
  if (lanes_ == Lanes::one || threads_ < 2 || tap_ || !ranks_.alone()) return nullptr;
  if (lanes_ == Lanes::automatic &&
      (!has_two_branches(request) || cfg_fusion_ != CfgFusion::automatic || step_flops(request) > kMostFlopsForLanes)) {
    return nullptr;
  }
  // Lanes whose layers come from host memory would wait for each other.
  if (lanes_ == Lanes::automatic && offloads() &&
      (layerwise_offload_ == LayerwiseOffload::on ||
       !fits_on_device(request, 2, decodes_in_tiles(request), Residence::encoders_leave))) {
    return nullptr;
  }
  const bool branches = has_two_branches(request) && cfg_fusion_ != CfgFusion::on;
  report.notes.push_back(fmt::format("lanes: the text encoders{} run side by side, {} threads each",
                                     branches ? " and both branches" : "", threads_ / 2));
  return lane_parts();
}

RunContext FluxPipeline::of_lane(const RunContext& context) {
  RunContext there = context;
  there.recorder = context.recorder != nullptr ? &lane_recorder_ : nullptr;
  return there;
}

PromptEmbeddings FluxPipeline::encode(const std::string& prompt, const std::string& prompt_2, std::int64_t length,
                                      const RunContext& context, SideBySide* lanes, RunReport& report) {
  if (lanes == nullptr)
    return {clip_.encode(prompt, context, report.notes), t5_.encode(prompt_2, length, context, report.notes)};
  PromptEmbeddings embeddings;
  std::vector<std::string> notes;
  const RunContext there = of_lane(context);
  run_beside(
      lanes->lane, [&] { embeddings.sequence = lanes->t5.encode(prompt_2, length, context, report.notes); },
      [&] { embeddings.pooled = lanes->clip.encode(prompt, there, notes); });
  report.notes.insert(report.notes.end(), notes.begin(), notes.end());
  return embeddings;
}

PromptEmbeddings FluxPipeline::encode_once(const std::string& prompt, const std::string& prompt_2, std::int64_t length,
                                           const RunContext& context, SideBySide* lanes, RunReport& report) {
  PromptEmbeddings embeddings;
  if (ranks_.leads_sequence()) {
    embeddings = encode(prompt, prompt_2, length, context, lanes, report);
  } else {
    embeddings.pooled = Tensor::empty({1, clip_.config().hidden_size}, clip_.runner().dtype());
    embeddings.sequence = Tensor::empty({1, length, t5_.config().d_model}, t5_.runner().dtype());
  }
  ranks_.share(embeddings.pooled);
  ranks_.share(embeddings.sequence);
  return embeddings;
}

std::vector<float> FluxPipeline::predict(std::span<const float> latents, const ResolvedTextToImageRequest& request,
                                         std::span<const PromptEmbeddings> branches, std::int64_t per_run,
                                         float timestep, const RunContext& context, SideBySide* lanes) {
  const auto [rows, columns] = grid_of(request);
  const auto run = [&, r = rows, c = columns](FluxDenoiser& denoiser, std::size_t first, std::size_t count,
                                              const RunContext& with) {
    return denoiser.predict(latents, r, c, branches.subspan(first, count), timestep, request.guidance_scale, with);
  };
  std::vector<float> velocity;
  std::vector<float> part;
  if (lanes != nullptr && branches.size() == 2 && per_run == 1) {
    const RunContext there = of_lane(context);
    run_beside(
        lanes->lane, [&] { velocity = run(lanes->with_prompt, 0, 1, context); },
        [&] { part = run(lanes->without_prompt, 1, 1, there); });
    velocity.insert(velocity.end(), part.begin(), part.end());
    return velocity;
  }
  for (std::size_t b = 0; b < branches.size(); b += static_cast<std::size_t>(per_run)) {
    part = run(transformer_, b, static_cast<std::size_t>(per_run), context);
    velocity.insert(velocity.end(), part.begin(), part.end());
  }
  return velocity;
}

double FluxPipeline::step_flops(const ResolvedTextToImageRequest& request) const {
  const auto [rows, columns] = grid_of(request);
  return transformer_.flops(request.max_sequence_length, rows, columns);
}

FluxPipeline::TokenGrid FluxPipeline::grid_of(const ResolvedTextToImageRequest& request) const {
  return {request.height / pixels_per_token(), request.width / pixels_per_token()};
}

RunReport FluxPipeline::generate(const ResolvedTextToImageRequest& request,
                                 const std::function<void(GeneratedImage&&)>& deliver, const RunObserver& observer) {
  try {
    return run(request, deliver, observer);
  } catch (const CommunicationError&) {
    throw;  // the others know
  } catch (const std::exception& error) {
    ranks_.fail(error.what());
    throw;
  }
}

RunReport FluxPipeline::run(const ResolvedTextToImageRequest& request,
                            const std::function<void(GeneratedImage&&)>& deliver, const RunObserver& observer) {
  RunReport report;
  Trace trace;
  const auto stage = [&](const char* name) {
    if (observer.on_stage) observer.on_stage(name);
    return TraceScope(&trace, name);
  };
  NodeRecorder recorder;
  RunContext context;
  context.recorder = trace_ ? &recorder : nullptr;
  context.cancel = observer.cancel;
  context.step_count = static_cast<int>(request.num_inference_steps);
  const bool true_cfg = has_two_branches(request);
  report.notes = request.notes;
  if (!skip_steps_.empty() && skip_steps_.back() >= request.num_inference_steps) {
    report.notes.push_back(fmt::format("quantize-skip-steps: {} lies beyond the request's steps, 0 to {}",
                                       skip_steps_.back(), request.num_inference_steps - 1));
  }

  ranks_.require_same(request_values(request));
  agree_on_memory();
  use_attention(request, report);
  check_memory(request);
  lane_recorder_ = recorder;  // one clock
  SideBySide* const lanes = side_by_side(request, report);
  if (lanes != nullptr) {
    for (FluxDenoiser* branch : {&lanes->with_prompt, &lanes->without_prompt})
      branch->runner().set_kv_cache(transformer_.runner().kv_cache());
  }

  std::vector<PromptEmbeddings> branches;
  budget_encoders(request);
  {
    const TraceScope scope = stage("encode prompt");
    for (const int branch : ranks_.branches_of(true_cfg ? 2 : 1)) {
      branches.push_back(encode_once(branch == 0 ? request.prompt : request.negative_prompt,
                                     branch == 0 ? request.prompt_2 : request.negative_prompt_2,
                                     request.max_sequence_length, context, lanes, report));
    }
  }
  if (device_ == nullptr) agree_on_memory();  // the encoders are there now
  const bool one_each = (lanes != nullptr && cfg_fusion_ != CfgFusion::on) || ranks_.degrees().cfg > 1;
  const std::int64_t per_run = one_each ? 1 : prompts_per_run(request, report);
  const bool tiled = decodes_in_tiles(request);
  if (tiled) report.notes.emplace_back("vae tiling: the picture is decoded in overlapping tiles");
  SideBySide* const tile_lanes = tiles_side_by_side(request, report);
  if (!tiled && vae_tiling_ == VaeTiling::on) report.notes.emplace_back("vae tiling: the picture is one tile");
  const std::int64_t at_once = lanes != nullptr && true_cfg ? 2 : per_run;
  release_encoders_when_short(request, at_once, tiled, report);
  budget_transformer(request, at_once, tiled);
  for (const std::string& note : report.notes) log(LogLevel::info, "{}", note);

  const auto [rows, columns] = grid_of(request);
  const std::int64_t channels = vae_.config().latent_channels;
  const auto count = static_cast<std::size_t>(rows * columns * channels * 4);
  const FlowMatchEulerScheduler::Schedule schedule =
      scheduler_.schedule(static_cast<int>(request.num_inference_steps), rows * columns);

  const int parts = ranks_.degrees().data;
  for (std::int64_t first = 0; first < request.num_images_per_prompt; first += parts) {
    const std::int64_t index = first + ranks_.place().data;
    if (index >= request.num_images_per_prompt) break;
    const std::uint64_t seed = request.seed + static_cast<std::uint64_t>(index);
    std::vector<float> latents(count);
    {
      const TraceScope scope = stage("denoise");
      // The noise is drawn as [channels, 2 rows, 2 columns] and cut into patches.
      const std::vector<float> noise = seeded_normal_noise(seed, count);
      for (std::size_t i = 0; i < count; ++i) {
        const auto at = static_cast<std::int64_t>(i);
        const std::int64_t in_patch = at % 4;
        const std::int64_t c = at / 4 % channels;
        const std::int64_t token = at / (4 * channels);
        const std::int64_t y = token / columns * 2 + in_patch / 2;
        const std::int64_t x = token % columns * 2 + in_patch % 2;
        latents[i] = noise[static_cast<std::size_t>((c * 2 * rows + y) * 2 * columns + x)];
      }
      context.tap = tap_ ? &tap_ : nullptr;
      for (std::int64_t step = 0; step < request.num_inference_steps; ++step) {
        const double start_ms = trace.now_ms();
        const auto s = static_cast<std::size_t>(step);
        context.step = static_cast<int>(step);
        std::vector<float> velocity =
            ranks_.join_branches(predict(latents, request, branches, per_run, schedule.timesteps[s], context, lanes));
        if (true_cfg) {
          const auto scale = static_cast<float>(request.true_cfg_scale);
          const std::span<const float> without_prompt = std::span(velocity).subspan(count);
          for (std::size_t i = 0; i < count; ++i) {
            velocity[i] = without_prompt[i] + scale * (velocity[i] - without_prompt[i]);
          }
          velocity.resize(count);
        }
        euler_step(latents, velocity, schedule.sigmas[s], schedule.sigmas[s + 1]);
        report.denoise_steps_ms.push_back(trace.now_ms() - start_ms);
        if (observer.on_step) observer.on_step(step + 1, request.num_inference_steps);
      }
    }
    if (!std::all_of(latents.begin(), latents.end(), [](float value) { return std::isfinite(value); })) {
      throw Error("denoise: the latents are not finite; the weights or the config do not hold together");
    }
    context.tap = nullptr;
    if (!ranks_.decodes()) continue;
    GeneratedImage picture{{}, index, seed};
    {
      const TraceScope scope = stage("decode");
      if (tile_lanes != nullptr) {
        const LatentDecoder::Pair pair{tile_lanes->even_tiles, tile_lanes->odd_tiles, tile_lanes->lane,
                                       of_lane(context)};
        picture.image = vae_.decode(latents, rows, columns, tiled, context, &pair);
      } else {
        picture.image = vae_.decode(latents, rows, columns, tiled, context);
      }
    }
    if (!ranks_.leads_sequence()) continue;
    if (!ranks_.delivers()) {
      ranks_.send_picture(picture.image);
      continue;
    }
    const int width = picture.image.width;
    const int height = picture.image.height;
    deliver(std::move(picture));
    for (int part = 1; part < parts && first + part < request.num_images_per_prompt; ++part)
      deliver({ranks_.receive_picture(part, width, height), first + part, seed + static_cast<std::uint64_t>(part)});
  }
  if (!ranks_.alone()) {
    std::string line = "peak memory:";
    for (const std::uint64_t bytes : ranks_.peak_memory()) line += fmt::format(" {}", human_bytes(bytes));
    report.notes.push_back(line + " (rank by rank)");
  }
  for (const Trace::Event& event : trace.events()) report.stages.push_back({event.name, event.duration_ms});
  report.events = describe_events(recorder.events, 0);
  for (RunReport::Event& event : describe_events(lane_recorder_.events, 1)) report.events.push_back(std::move(event));
  report.components = {clip_.runner().report(), t5_.runner().report(), transformer_.runner().report(),
                       vae_.runner().report()};
  if (tile_lanes != nullptr) {
    const std::uint64_t alone = report.components[3].arena_bytes;  // of the last tile of an odd number
    report.components[3] = tile_lanes->even_tiles.runner().report();
    report.components[3].arena_bytes += tile_lanes->odd_tiles.runner().report().arena_bytes + alone;
  }
  if (lanes != nullptr) {
    report.components[0] = lanes->clip.runner().report();
    report.components[1] = lanes->t5.runner().report();
    if (true_cfg && per_run == 1) {
      report.components[2] = lanes->with_prompt.runner().report();
      report.components[2].arena_bytes += lanes->without_prompt.runner().report().arena_bytes;
    }
  }
  return report;
}

}  // namespace rondo
