// From a prompt to pictures, with a model in a diffusers folder.
//
//   auto pipeline = rondo::TextToImagePipeline::open("models/emoji", {});
//   rondo::TextToImageRequest request;
//   request.prompt = "grinning face";
//   pipeline.generate(pipeline.resolve(request), [](rondo::GeneratedImage&& picture) { ... });
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rondo/attention.h"
#include "rondo/dtype.h"
#include "rondo/export.h"
#include "rondo/image.h"
#include "rondo/parallel.h"

namespace rondo RONDO_PUBLIC {

/// Whether the branches of true classifier-free guidance run as one batch. automatic: where memory allows.
enum class CfgFusion : std::uint8_t { automatic, on, off };

/// Whether pictures are decoded in overlapping tiles that are blended. automatic: where the whole would not fit.
enum class VaeTiling : std::uint8_t { automatic, on, off };
/// Whether weights of the transformer and the large text encoder leave the device between their layers' turns, to host
/// memory: where they do not fit (automatic), all of them, or none.
enum class LayerwiseOffload : std::uint8_t { automatic, on, off };

/// Whether independent work (both text encoders, both branches of classifier-free guidance) runs side by side, each
/// half with half of the threads. automatic: where that is faster, which is where models are small.
enum class Lanes : std::uint8_t { automatic, one, two };

/// How the transformer's linear layers are quantised. Layers are named as their weights are, without ".weight".
struct LinearQuantizationOptions {
  /// w8a8 (weights and inputs in 8 bits), w8a16, w4a16 (weights in 8 or 4 bits, for memory), fp8 (w8a8 in e4m3, for
  /// GPUs that multiply it), fp8-per-tensor (the same with one scale for all rows) or none. Empty: as the checkpoint is
  /// stored.
  std::string format;
  /// Globs of layers that stay as they are. Unset: modulations, embeddings and the output.
  std::optional<std::vector<std::string>> exclude;
  struct Rule {
    std::string pattern;
    std::string format;  // or none
  };
  /// Stronger than `exclude`; the last that matches wins.
  std::vector<Rule> rules;
  /// Inputs that share a weight's scale in w4a16: 32, 64 or 128.
  std::int64_t group = 64;
  /// Whether Hadamard matrices turn inputs and weights first, so that outliers spread.
  bool rotate = false;
  /// Steps that run unquantised, such as "0,1,18-19"; empty for none. Both forms of the weights are then kept.
  std::string skip_steps;
};

/// How the transformer's attention is quantised while it runs. What is not set is as the next wider scope says: a
/// request's as its pipeline's, a pipeline's as the model's own (transformer/config.json, "kv_cache_config").
struct KvCacheOptions {
  std::optional<KvCacheDtype> dtype;  // automatic, native, where nobody says otherwise
  /// Steps and layers that stay native, such as "0,1,38-39"; both count from 0, steps over the whole request. Empty:
  /// none.
  std::optional<std::string> skip_steps;
  std::optional<std::string> skip_layers;
  /// Whether queries and keys are turned by random Hadamard matrices first, so that outliers spread: true where nobody
  /// says otherwise.
  std::optional<bool> rotate;
  /// Whether the mean of all keys is taken from each first: where a kernel can, if nobody says otherwise.
  std::optional<bool> smooth_k;
  /// What this machine or model cannot do runs native, with a warning, in place of being refused.
  std::optional<bool> fall_back_to_native;
};

/// Whether a device records the steps of a run the second time that they are done, and does them as one from then on
/// (CUDA graphs). automatic: where it can.
enum class CudaGraph : std::uint8_t { automatic, on, off };

/// What decides how a model runs; fixed when it is opened.
struct PipelineOptions {
  /// Where models run, as find_device() takes it: "cpu", "cuda:1", "ascend". Empty: RONDO_DEVICE, else the best there
  /// is when the pipeline opens.
  std::string device;
  /// Whether operators for which the device has no kernel run on the CPU, with copies there and back. Otherwise a model
  /// that has some is refused.
  bool allow_cpu_fallback = false;
  /// The picture is the same. On the CPU, where there is nothing to leave, `on` is refused.
  LayerwiseOffload layerwise_offload = LayerwiseOffload::automatic;
  /// The picture is the same. `on` keeps all weights on the device, and is refused where no work is recorded: on a
  /// device that cannot, with ranks, and with layerwise_offload on.
  CudaGraph cuda_graph = CudaGraph::automatic;
  /// Compute dtype: f32 or bf16. Unset: bf16 where the device multiplies it natively, f32 elsewhere.
  std::optional<DType> dtype;
  /// Threads of one run, at most those that OpenMP gives (OMP_THREAD_LIMIT). Unset: RONDO_THREADS, else
  /// OMP_NUM_THREADS, else physical cores within affinity mask and cgroup quota.
  std::optional<int> threads;
  /// The picture is the same to rounding.
  CfgFusion cfg_fusion = CfgFusion::automatic;
  VaeTiling vae_tiling = VaeTiling::automatic;
  /// The picture is the same to rounding. Lanes::two with fewer than two threads is refused.
  Lanes lanes = Lanes::automatic;
  /// Whether the graph passes run. Unset: yes, unless RONDO_DISABLE_COMPILE is 1. The graph without them is the plain
  /// one.
  std::optional<bool> compile;
  /// Graph passes to leave out, or exactly those to run. Names as `rondo inspect --list-passes` lists them.
  std::vector<std::string> without_passes;
  std::optional<std::vector<std::string>> only_passes;
  /// The transformer's attention kernel, as `rondo backends` lists them. Empty: RONDO_ATTENTION_BACKEND, else the best.
  std::string attention_backend;
  /// Whether measured attention kernels are used, or measured where they are not yet. Unset: as RONDO_TUNE says.
  std::optional<TuneMode> tune;
  LinearQuantizationOptions quantization;
  KvCacheOptions kv_cache;
  /// How work is shared among the ranks of `world`; null: this process is alone. Every rank opens the same model with
  /// the same options and makes the same requests; what differs is found and named.
  ParallelOptions parallel;
  std::shared_ptr<ParallelWorld> world;
  /// Bytes that the process may take in all, on a device of its memory. A request that needs more is refused before any
  /// work; what is automatic (fusion, tiling, releasing text encoders) heeds it. Unset: what the system, or the device,
  /// has available.
  std::optional<std::uint64_t> memory_limit;
  /// Whether reports have every operator's times.
  bool trace = false;
  /// A folder for packed weights. What one process packs is mapped from there by the next ones, which start sooner, and
  /// all that run at the same time hold one copy. Unset: RONDO_WEIGHT_CACHE, else none; empty: none.
  std::optional<std::string> weight_cache;
  /// Bytes that the folder may take; what was not used for the longest time goes first.
  std::uint64_t weight_cache_limit = 20'000'000'000;
};

/// What a caller asks for. What is not set is taken from the model folder's generation_config.json, then from the
/// model, then from the field's defaults: 28 steps, guidance 3.5, true CFG 1.
struct TextToImageRequest {
  std::optional<std::string> prompt;           // UTF-8
  std::optional<std::string> prompt_2;         // for the second text encoder; default: prompt
  std::optional<std::string> negative_prompt;  // read with true_cfg_scale above 1, which needs one; may be empty
  std::optional<std::string> negative_prompt_2;
  std::optional<std::int64_t> width;  // pixels
  std::optional<std::int64_t> height;
  std::optional<std::int64_t> num_inference_steps;    // 1 to 1000
  std::optional<double> guidance_scale;               // read by models with a guidance embedding
  std::optional<double> true_cfg_scale;               // above 1 with a negative prompt: two runs a step
  std::optional<std::uint64_t> seed;                  // default: drawn
  std::optional<std::int64_t> num_images_per_prompt;  // picture i has seed + i
  std::optional<std::int64_t> max_sequence_length;    // tokens of the second text encoder, 1 to 512
  KvCacheOptions kv_cache = {};
};

/// A request in which nothing is open: what is written beside a picture.
struct ResolvedTextToImageRequest {
  std::string prompt;
  std::string prompt_2;
  std::string negative_prompt;
  std::string negative_prompt_2;
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::int64_t num_inference_steps = 0;
  double guidance_scale = 0;
  double true_cfg_scale = 1;
  std::uint64_t seed = 0;
  std::int64_t num_images_per_prompt = 1;
  std::int64_t max_sequence_length = 0;
  KvCacheOptions kv_cache;         // as asked for: what is not set is as the pipeline has it
  std::vector<std::string> notes;  // what was asked for and has no effect
};

struct GeneratedImage {
  Image image;
  std::int64_t index = 0;
  std::uint64_t seed = 0;
};

/// How a run went, for reports.
struct RunReport {
  struct Stage {
    std::string name;  // "load text_encoder", "encode prompt", "denoise", "decode"
    double duration_ms = 0;
  };
  struct Component {
    std::string name;
    std::string device;
    std::string placement;   // which nodes run where; empty on the CPU
    std::string offload;     // which weights leave the device between their layers' turns; empty: none
    std::string cuda_graph;  // what the device recorded of a run's steps; empty: nothing is to be
    std::string dtype;
    std::uint64_t weight_bytes = 0;    // in the file
    std::uint64_t resident_bytes = 0;  // copies and packed forms in memory
    std::uint64_t arena_bytes = 0;     // planned
    std::uint64_t naive_bytes = 0;     // without reuse of buffers
    std::vector<std::string> kernels;  // "linear: onednn x 98"
    std::vector<std::string> passes;   // "dead-nodes: 3 matched, 3 removed"
  };
  /// One operator's turn, with PipelineOptions::trace.
  struct Event {
    std::string component;  // "transformer"
    std::string segment;    // "double_block 3"
    std::string op;         // "linear"
    std::string kernel;     // "int8"
    std::string output;     // "bfloat16 [1, 80, 768]"
    int lane = 0;
    double start_ms = 0;  // since generate() began
    double duration_ms = 0;
    double operations = 0;  // multiplications and additions of products and attention
    double bytes = 0;       // read and written, each operand once
  };
  std::vector<Event> events;
  std::vector<Stage> stages;
  std::vector<double> denoise_steps_ms;
  std::vector<std::string> notes;  // what was chosen and why, what was truncated
  std::vector<Component> components;
};

/// Called from generate(), on its thread.
struct RunObserver {
  std::function<void(const std::string& stage)> on_stage;
  std::function<void(std::int64_t step, std::int64_t steps)> on_step;  // after each
  const std::atomic<bool>* cancel = nullptr;                           // looked at between nodes
};

/// One model folder. generate() belongs to one thread at a time; instance() gives more.
class TextToImagePipeline {
 public:
  /// Reads and checks every config and every weight's shape; weights are loaded when first needed. Throws FileError for
  /// what is wrong with the folder, Unsupported for what cannot run here.
  static TextToImagePipeline open(const std::string& folder, const PipelineOptions& options);
  TextToImagePipeline(TextToImagePipeline&&) noexcept;
  TextToImagePipeline& operator=(TextToImagePipeline&&) noexcept;
  ~TextToImagePipeline();

  /// Another pipeline on the same weights, packed forms and plans, with buffers of its own: instances may generate at
  /// the same time, each on a thread of the caller's with threads() of its own. What one throws leaves the others as
  /// they are. Throws Unsupported for one that shares its work with other ranks.
  TextToImagePipeline instance() const;

  /// The device, the compute dtype and the number of threads in use.
  Device device() const;
  DType dtype() const;
  int threads() const;
  /// Which ranks work together, a line a kind of group, such as "ulysses: [0, 1] [2, 3]", and on devices whether
  /// messages go between them; empty for one rank.
  std::vector<std::string> rank_groups() const;

  /// Fills in every default and checks every value; of several ranks, all call it. Throws InvalidArgument, naming the
  /// field and what is allowed.
  ResolvedTextToImageRequest resolve(const TextToImageRequest& request) const;

  /// Draws num_images_per_prompt pictures and hands each to `deliver` as it is done; of several ranks, on rank 0.
  /// Throws Cancelled when the observer's flag is set, CommunicationError when another rank fails.
  RunReport generate(const ResolvedTextToImageRequest& request, const std::function<void(GeneratedImage&&)>& deliver,
                     const RunObserver& observer = {});

 private:
  class Implementation;
  explicit TextToImagePipeline(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace RONDO_PUBLIC
