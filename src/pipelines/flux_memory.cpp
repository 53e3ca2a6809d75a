// What a FLUX pipeline's parts take of memory, and what is done where it is short: tiles, branches one after the other,
// text encoders let go, and on a device weights that leave it between their layers' turns.
#include <algorithm>

#include "core/log.h"
#include "core/memory.h"
#include "core/text.h"
#include "pipelines/flux_pipeline.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// Kernels on a device ask for memory while they run, of which they do not tell before: on Ascend's simulator up to
/// twice what the buffers take, for convolutions, whose operands change their layout; and masks of 4 MB.
std::uint64_t temporaries_beside(std::uint64_t buffers) {
  constexpr std::uint64_t kConstants = 5'000'000;
  return kConstants + 2 * buffers;
}

/// Blocks of memory are larger than what is asked for.
std::uint64_t without_margin(std::uint64_t bytes) { return bytes - bytes / 20; }

std::uint64_t less(std::uint64_t bytes, std::uint64_t taken) { return bytes - std::min(bytes, taken); }

}  // namespace

bool FluxPipeline::offloads() const { return device_ != nullptr && layerwise_offload_ != LayerwiseOffload::off; }

std::uint64_t FluxPipeline::memory_left() const {
  const auto sharers = static_cast<std::uint64_t>(ranks_.on_this_memory());
  if (device_ != nullptr) {
    const std::uint64_t left = device_->available_memory() / sharers;
    return memory_limit_ ? std::min(left, less(*memory_limit_, device_->memory().statistics().used_bytes)) : left;
  }
  const std::uint64_t available = available_memory() / sharers;
  return memory_limit_ ? std::min(available, less(*memory_limit_, resident_memory())) : available;
}

std::uint64_t FluxPipeline::device_memory() const {
  std::uint64_t own = 0;
  const auto add_buffers = [&](const auto&... parts) { own += (parts.runner().held_bytes() + ... + 0); };
  add_buffers(clip_, t5_, transformer_, vae_);
  if (side_by_side_ != nullptr) {
    const SideBySide& s = *side_by_side_;
    add_buffers(s.clip, s.t5, s.with_prompt, s.without_prompt, s.even_tiles, s.odd_tiles);
  }
  const auto add_weights = [&](const auto&... parts) { own += (parts.runner().device_weight_bytes() + ... + 0); };
  add_weights(clip_, t5_, transformer_, vae_);
  return memory_left() + own;
}

std::uint64_t FluxPipeline::beside_transformer(const ResolvedTextToImageRequest& request, std::int64_t prompts,
                                               bool tiled, bool encoders_stay) const {
  const std::uint64_t buffers = buffer_bytes(request, prompts, tiled);
  const std::uint64_t encoding = t5_.buffer_bytes(request.max_sequence_length);
  const std::uint64_t here = vae_.runner().weight_bytes() + clip_.runner().weight_bytes() + buffers;
  if (encoders_stay) return here + t5_.runner().weight_bytes() + encoding + temporaries_beside(buffers);
  // They are let go, and for the next prompt must find room again, when the temporaries are gone.
  const std::uint64_t t5 = offloads() ? t5_.least_weight_bytes() : t5_.runner().weight_bytes();
  return here + std::max(temporaries_beside(buffers), t5 + encoding + temporaries_beside(encoding));
}

bool FluxPipeline::fits_on_device(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled,
                                  Residence residence) const {
  const bool leaves = residence == Residence::layers_leave;
  const std::uint64_t transformer = leaves ? transformer_.least_weight_bytes() : transformer_.runner().weight_bytes();
  return transformer + beside_transformer(request, prompts, tiled, residence == Residence::all) <=
         without_margin(agreed_memory_);
}

std::uint64_t FluxPipeline::cpu_memory() const {
  if (!memory_limit_) return memory_left();
  return less(memory_left(), transformer_.runner().bytes_to_load() + vae_.runner().bytes_to_load());
}

void FluxPipeline::agree_on_memory() {
  agreed_memory_ = ranks_.least(device_ == nullptr ? cpu_memory() : device_memory());
}

std::uint64_t FluxPipeline::memory_for_buffers() const {
  if (device_ == nullptr) return agreed_memory_;
  const std::uint64_t transformer =
      offloads() ? transformer_.least_weight_bytes() : transformer_.runner().weight_bytes();
  return less(agreed_memory_, transformer + vae_.runner().weight_bytes());
}

void FluxPipeline::check_memory(const ResolvedTextToImageRequest& request) const {
  const bool at_once = (cfg_fusion_ == CfgFusion::on || lanes_ == Lanes::two) && has_two_branches(request);
  const std::uint64_t needed = buffer_bytes(request, at_once ? 2 : 1, decodes_in_tiles(request));
  const std::uint64_t available = memory_for_buffers();
  if (needed > available) {
    throw Unsupported(fmt::format(
        "size: {} x {} needs about {} of memory for buffers; {} are available{}", request.width, request.height,
        human_bytes(needed), human_bytes(available),
        memory_limit_ ? fmt::format(" beside the weights within the limit of {}", human_bytes(*memory_limit_)) : ""));
  }
}

void FluxPipeline::budget_encoders(const ResolvedTextToImageRequest& request) {
  if (!offloads()) return;
  const std::uint64_t buffers = t5_.buffer_bytes(request.max_sequence_length);
  const std::uint64_t others = clip_.runner().bytes_to_load() + buffers + temporaries_beside(buffers);
  const auto room = [&] { return less(without_margin(memory_left()), others); };
  const std::uint64_t whole = t5_.runner().bytes_to_load();
  if (whole > 0 && t5_.least_weight_bytes() > room()) release_transformer("the text encoders need its memory");
  const bool stays = layerwise_offload_ == LayerwiseOffload::automatic && whole <= room();
  const std::uint64_t budget = layerwise_offload_ == LayerwiseOffload::on ? 0 : room();
  t5_.runner().set_weight_budget(stays ? std::nullopt : std::optional(budget));
}

void FluxPipeline::budget_transformer(const ResolvedTextToImageRequest& request, std::int64_t prompts, bool tiled) {
  if (!offloads()) return;
  std::optional<std::uint64_t> budget;
  if (layerwise_offload_ == LayerwiseOffload::on) budget = 0;
  if (!budget && !fits_on_device(request, prompts, tiled, Residence::encoders_leave)) {
    budget = less(without_margin(agreed_memory_), beside_transformer(request, prompts, tiled, false));
    // It was loaded for less: decided anew.
    const std::uint64_t least = std::max(*budget, transformer_.least_weight_bytes());
    if (transformer_.runner().device_weight_bytes() > least + least / 20)
      release_transformer("this request leaves it less memory");
  }
  transformer_.runner().set_weight_budget(budget);
}

void FluxPipeline::release_transformer(std::string_view reason) {
  if (transformer_.runner().device_weight_bytes() == 0) return;
  log(LogLevel::info, "transformer: released, since {}", reason);
  transformer_.runner().release();
  if (side_by_side_ != nullptr) {
    side_by_side_->with_prompt.runner().release();
    side_by_side_->without_prompt.runner().release();
  }
  device_->memory().release_cached();
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
  if (cfg_fusion_ == CfgFusion::automatic && !both_fit(request, tiled)) {
    const std::uint64_t available = memory_for_buffers();
    report.notes.push_back(
        needed > available ? fmt::format("cfg fusion: not used: {} of memory would be needed and {} are available",
                                         human_bytes(needed), human_bytes(available))
                           : fmt::format("cfg fusion: not used: its buffers of {} would take {}", human_bytes(needed),
                                         device_ == nullptr ? "more than another rank has" : "the weights' room"));
    return 1;
  }
  report.notes.push_back(fmt::format("cfg fusion: both branches in one run, buffers {} in place of {}",
                                     human_bytes(needed), human_bytes(buffer_bytes(request, 1, tiled))));
  return 2;
}

bool FluxPipeline::both_fit(const ResolvedTextToImageRequest& request, bool tiled) const {
  if (device_ == nullptr) return ranks_.all(buffer_bytes(request, 2, tiled) <= agreed_memory_);
  if (ranks_.all(fits_on_device(request, 2, tiled, Residence::encoders_leave))) return true;
  // Layers that leave for want of memory come back once for both branches, or twice.
  return ranks_.all(offloads() && !fits_on_device(request, 1, tiled, Residence::encoders_leave) &&
                    fits_on_device(request, 2, tiled, Residence::layers_leave));
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
  if (vae_tiling_ == VaeTiling::on) return true;
  if (device_ == nullptr) return !ranks_.all(buffer_bytes(request, 1, false) <= agreed_memory_);
  // Tiles change the picture a little, encoders that leave do not.
  return !ranks_.all(fits_on_device(request, 1, false, Residence::encoders_leave));
}

void FluxPipeline::release_encoders_when_short(const ResolvedTextToImageRequest& request, std::int64_t prompts,
                                               bool tiled, RunReport& report) {
  std::string why;
  if (device_ != nullptr) {
    if (fits_on_device(request, prompts, tiled, Residence::all)) return;
    why = fmt::format("{} of memory are there for all", human_bytes(agreed_memory_));
  } else {
    const std::uint64_t to_load = transformer_.runner().bytes_to_load() + vae_.runner().bytes_to_load();
    // Once the transformer is loaded its buffers are too.
    const std::uint64_t needed = to_load == 0 ? 0 : to_load + buffer_bytes(request, prompts, tiled);
    const std::uint64_t available = memory_left();
    if (needed <= available) return;
    why = fmt::format("the rest needs {} of memory and {} are available", human_bytes(needed), human_bytes(available));
  }
  clip_.runner().release();
  t5_.runner().release();
  if (side_by_side_ != nullptr) {
    side_by_side_->clip.runner().release();
    side_by_side_->t5.runner().release();
  }
  // As whole blocks they would be given to what is smaller.
  if (device_ != nullptr) device_->memory().release_cached();
  report.notes.push_back("text encoders: released, since " + why);
}

}  // namespace rondo
