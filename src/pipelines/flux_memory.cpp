// What a FLUX pipeline's parts take of memory, and what is done where it is short: tiles, branches one after the other,
// text encoders let go, weights that leave the device between their layers' turns.
#include <algorithm>

#include "core/memory.h"
#include "core/text.h"
#include "pipelines/flux_pipeline.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// Kernels on a device ask for memory while they run, of which they do not tell before: on Ascend's simulator up to
/// twice what the buffers take, for convolutions, whose operands change their layout.
std::uint64_t temporaries_beside(std::uint64_t buffers) { return 2 * buffers; }

/// What weights may take of what is left, beside what else takes `others`.
std::uint64_t weight_budget(LayerwiseOffload offload, std::uint64_t left, std::uint64_t others) {
  if (offload == LayerwiseOffload::on) return 0;
  left -= left / 20;  // blocks are larger than what is asked for
  return left - std::min(left, others);
}

}  // namespace

std::uint64_t FluxPipeline::memory_left() const {
  if (device_ != nullptr) {
    const std::uint64_t left = device_->available_memory() / static_cast<std::uint64_t>(ranks_.on_this_host());
    const std::uint64_t used = device_->memory().statistics().used_bytes;
    return memory_limit_ ? std::min(left, *memory_limit_ - std::min(*memory_limit_, used)) : left;
  }
  const std::uint64_t available = available_memory() / static_cast<std::uint64_t>(ranks_.on_this_host());
  if (!memory_limit_) return available;
  const std::uint64_t taken = resident_memory();
  return std::min(available, *memory_limit_ > taken ? *memory_limit_ - taken : 0);
}

std::uint64_t FluxPipeline::memory_beside(std::uint64_t weights) const {
  // Of a device's memory, what this pipeline's sessions hold is theirs to use again.
  const std::uint64_t held = device_ == nullptr ? 0 : transformer_.runner().held_bytes() + vae_.runner().held_bytes();
  const std::uint64_t left = memory_left() + held;
  return left > weights ? left - weights : 0;
}

std::uint64_t FluxPipeline::memory_for_buffers() const {
  if (agreed_memory_) return *agreed_memory_;
  if (device_ == nullptr && !memory_limit_) return memory_left();
  return memory_beside(transformer_.runner().bytes_to_load() + vae_.runner().bytes_to_load());
}

bool FluxPipeline::offloads() const { return device_ != nullptr && layerwise_offload_ != LayerwiseOffload::off; }

void FluxPipeline::budget_encoders(const ResolvedTextToImageRequest& request) {
  if (!offloads()) return;
  const std::uint64_t buffers = t5_.buffer_bytes(request.max_sequence_length);
  const std::uint64_t others = clip_.runner().bytes_to_load() + buffers + temporaries_beside(buffers);
  t5_.runner().set_weight_budget(weight_budget(layerwise_offload_, memory_left(), others));
}

void FluxPipeline::budget_transformer(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled) {
  if (!offloads()) return;
  const std::uint64_t buffers = buffer_bytes(request, prompts, tiled);
  // The next prompt's encoders, where they were let go, must find room again; temporaries are gone by then.
  const std::uint64_t encoders =
      clip_.runner().bytes_to_load() + t5_.least_bytes_to_load() + t5_.buffer_bytes(request.max_sequence_length);
  const std::uint64_t others =
      vae_.runner().bytes_to_load() + buffers + std::max(temporaries_beside(buffers), encoders);
  transformer_.runner().set_weight_budget(weight_budget(layerwise_offload_, memory_beside(0), others));
}

void FluxPipeline::check_memory(const ResolvedTextToImageRequest& request) const {
  const bool at_once = (cfg_fusion_ == CfgFusion::on || lanes_ == Lanes::two) && has_two_branches(request);
  const std::uint64_t needed = buffer_bytes(request, at_once ? 2 : 1, decodes_in_tiles(request));
  std::uint64_t available = memory_for_buffers();
  if (needed > available && offloads())
    available = memory_beside(transformer_.least_bytes_to_load() + vae_.runner().bytes_to_load());
  if (needed > available) {
    throw Unsupported(fmt::format(
        "size: {} x {} needs about {} of memory for buffers; {} are available{}", request.width, request.height,
        human_bytes(needed), human_bytes(available),
        memory_limit_ ? fmt::format(" beside the weights within the limit of {}", human_bytes(*memory_limit_)) : ""));
  }
}

std::int64_t FluxPipeline::prompts_per_run(const ResolvedTextToImageRequest& request, RunReport& report) const {
  if (!has_two_branches(request)) {
    if (cfg_fusion_ == CfgFusion::on)
      report.notes.emplace_back("cfg fusion: nothing to fuse: true_cfg_scale is not above 1");
    return 1;
  }
  if (cfg_fusion_ == CfgFusion::off) return 1;
  const bool tiled = decodes_in_tiles(request);
  const std::uint64_t needed = buffer_bytes(request, 2, tiled);
  const std::uint64_t available = memory_for_buffers();
  if (cfg_fusion_ == CfgFusion::automatic && needed > available) {
    report.notes.push_back(fmt::format("cfg fusion: not used: {} of memory would be needed and {} are available",
                                       human_bytes(needed), human_bytes(available)));
    return 1;
  }
  report.notes.push_back(fmt::format("cfg fusion: both branches in one run, buffers {} in place of {}",
                                     human_bytes(needed), human_bytes(buffer_bytes(request, 1, tiled))));
  return 2;
}

std::uint64_t FluxPipeline::buffer_bytes(const ResolvedTextToImageRequest& request, std::int64_t prompts,
                                         bool tiled) const {
  const auto [rows, columns] = grid_of(request);
  return transformer_.buffer_bytes(prompts, request.max_sequence_length, rows, columns) +
         vae_.buffer_bytes(rows, columns, tiled) * (tiled && lanes_ == Lanes::two ? 3 : 1);
}

bool FluxPipeline::decodes_in_tiles(const ResolvedTextToImageRequest& request) const {
  const auto [rows, columns] = grid_of(request);
  if (vae_tiling_ == VaeTiling::off || !vae_.has_tiles(rows, columns)) return false;
  return vae_tiling_ == VaeTiling::on || buffer_bytes(request, 1, false) > memory_for_buffers();
}

void FluxPipeline::release_encoders_when_short(const ResolvedTextToImageRequest& request, std::int64_t prompts,
                                               RunReport& report) {
  const std::uint64_t to_load = transformer_.runner().bytes_to_load() + vae_.runner().bytes_to_load();
  const std::uint64_t buffers = buffer_bytes(request, prompts, decodes_in_tiles(request));
  const std::uint64_t temporaries = device_ == nullptr ? 0 : temporaries_beside(buffers);
  // Once the transformer is loaded its buffers are too.
  const std::uint64_t needed = (to_load == 0 ? 0 : to_load + buffers) + temporaries;
  const std::uint64_t available = memory_left();
  if (needed <= available) return;
  clip_.runner().release();
  t5_.runner().release();
  if (side_by_side_ != nullptr) {
    side_by_side_->clip.runner().release();
    side_by_side_->t5.runner().release();
  }
  // As whole blocks they would be given to what is smaller.
  if (device_ != nullptr) device_->memory().release_cached();
  report.notes.push_back(fmt::format("text encoders: released, since the rest needs {} of memory and {} are available",
                                     human_bytes(needed), human_bytes(available)));
}

}  // namespace rondo
