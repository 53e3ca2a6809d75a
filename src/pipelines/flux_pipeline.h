// FluxPipeline: text to picture with a FLUX model, with the semantics of diffusers' pipeline of the same name.
#pragma once

#include <functional>
#include <memory>

#include "core/lane.h"
#include "pipelines/flux_components.h"
#include "pipelines/ranks.h"
#include "rondo/text_to_image.h"

namespace rondo {

inline bool has_two_branches(const ResolvedTextToImageRequest& request) { return request.true_cfg_scale > 1; }

class FluxPipeline {
 public:
  FluxPipeline(const DiffusersFolder& folder, const ComputeOptions& options);

  /// Another pipeline on the same weights, plans and tokenizers.
  FluxPipeline instance() const;

  /// Throws InvalidArgument for what no run allows and for what these ranks do not.
  ResolvedTextToImageRequest resolve(const TextToImageRequest& request) const;
  /// With several ranks: all call it alike, and `deliver` is called on rank 0.
  RunReport generate(const ResolvedTextToImageRequest& request, const std::function<void(GeneratedImage&&)>& deliver,
                     const RunObserver& observer);

 private:
  RunReport run(const ResolvedTextToImageRequest& request, const std::function<void(GeneratedImage&&)>& deliver,
                const RunObserver& observer);
  FluxPipeline(const FluxPipeline& other, ClipEncoder clip, T5Encoder t5, FluxDenoiser transformer, LatentDecoder vae);
  /// What runs side by side: on the caller's thread the first of each, on the lane the other.
  struct SideBySide {
    T5Encoder t5;
    ClipEncoder clip;
    FluxDenoiser with_prompt;
    FluxDenoiser without_prompt;
    LatentDecoder even_tiles;
    LatentDecoder odd_tiles;
    Lane lane = {};
  };
  /// Every default filled in, every value checked, whatever the ranks.
  ResolvedTextToImageRequest fill_in(const TextToImageRequest& request) const;
  /// Sets which attention runs quantised, and says so.
  void use_attention(const ResolvedTextToImageRequest& request, RunReport& report);
  /// The parts for two lanes; made when they are first asked for.
  SideBySide* lane_parts();
  /// The same, or null where this request's encoders and branches run on one lane; says why in the report.
  SideBySide* side_by_side(const ResolvedTextToImageRequest& request, RunReport& report);
  /// The same, or null where tiles are decoded one after the other.
  SideBySide* tiles_side_by_side(const ResolvedTextToImageRequest& request, RunReport& report);
  /// The context of what runs on the lane.
  RunContext of_lane(const RunContext& context);
  PromptEmbeddings encode(const std::string& prompt, const std::string& prompt_2, std::int64_t length,
                          const RunContext& context, SideBySide* lanes, RunReport& report);
  /// The same on every rank that shares the sequence: the first of them encodes.
  PromptEmbeddings encode_once(const std::string& prompt, const std::string& prompt_2, std::int64_t length,
                               const RunContext& context, SideBySide* lanes, RunReport& report);
  /// The velocity of each branch, one after the other.
  std::vector<float> predict(std::span<const float> latents, const ResolvedTextToImageRequest& request,
                             std::span<const PromptEmbeddings> branches, std::int64_t per_run, float timestep,
                             const RunContext& context, SideBySide* lanes);
  struct TokenGrid {
    std::int64_t rows;
    std::int64_t columns;
  };
  /// Of one branch's step.
  double step_flops(const ResolvedTextToImageRequest& request) const;
  TokenGrid grid_of(const ResolvedTextToImageRequest& request) const;
  /// What a request's buffers take, with so many prompts in a run of the transformer.
  std::uint64_t buffer_bytes(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled) const;
  /// What may still be taken: of the device's memory, or of the limit or the system's memory.
  std::uint64_t memory_left() const;
  /// On the CPU, what is left to buffers: with a limit, beside the weights.
  std::uint64_t cpu_memory() const;
  /// Of the device's: what this pipeline has, and what is left.
  std::uint64_t device_memory() const;
  /// What the ranks have in this run, the least of any: on the CPU for buffers, of a device for all. Decisions that all
  /// must take alike come from it.
  void agree_on_memory();
  /// Of what was agreed on, what weights leave to buffers.
  std::uint64_t memory_for_buffers() const;
  /// What lies on a device at the same time: everything, or text encoders not, or of the layers' weights two at a time.
  enum class Residence : std::uint8_t { all, encoders_leave, layers_leave };
  bool fits_on_device(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled,
                      Residence residence) const;
  /// Of a device, all but the transformer's weights.
  std::uint64_t beside_transformer(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled,
                                   bool encoders_stay) const;
  /// Alike on all ranks, which ask together.
  bool decodes_in_tiles(const ResolvedTextToImageRequest& request) const;
  /// How many prompts go into one run of the transformer; says why in the report. Alike on all ranks, which ask
  /// together.
  std::int64_t prompts_per_run(const ResolvedTextToImageRequest& request, RunReport& report) const;
  /// Whether both branches in one run find room, on all ranks.
  bool both_fit(const ResolvedTextToImageRequest& request, bool tiled) const;
  /// Text encoders are done with once the prompt is encoded: where memory is short, they make room for the rest.
  void release_encoders_when_short(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled,
                                   RunReport& report);
  /// Gives back the transformer's weights and buffers, on a device; the next session loads them again.
  void release_transformer(std::string_view reason);
  /// Throws Unsupported, before any work, when the buffers of this size cannot fit.
  void check_memory(const ResolvedTextToImageRequest& request) const;
  /// Whether weights may leave the device between their layers' turns.
  bool offloads() const;
  /// Say how much of the device weights may take, before they are loaded.
  void budget_encoders(const ResolvedTextToImageRequest& request);
  void budget_transformer(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled);
  /// Pixels a side of one transformer token.
  std::int64_t pixels_per_token() const { return 2 * vae_.config().scale(); }

  Ranks ranks_;
  std::uint64_t agreed_memory_ = 0;
  NodeTap tap_;
  bool trace_;
  CfgFusion cfg_fusion_;
  VaeTiling vae_tiling_;
  Lanes lanes_;
  LayerwiseOffload layerwise_offload_;
  std::optional<std::uint64_t> memory_limit_;
  int threads_;
  std::shared_ptr<const ExecutionDevice> device_;  // null: the CPU
  std::vector<int> skip_steps_;
  JsonConfig generation_defaults_;
  FlowMatchEulerScheduler scheduler_;
  ClipEncoder clip_;
  T5Encoder t5_;
  FluxDenoiser transformer_;
  LatentDecoder vae_;
  std::unique_ptr<SideBySide> side_by_side_;
  NodeRecorder lane_recorder_;
};

}  // namespace rondo
