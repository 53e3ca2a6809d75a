// FlowMatchEulerDiscreteScheduler, as diffusers defines it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/json_config.h"

namespace rondo {

class FlowMatchEulerScheduler {
 public:
  /// Reads scheduler_config.json. Throws FileError for a key that is set and not supported, by its name.
  static FlowMatchEulerScheduler parse(const JsonConfig& config);

  struct Schedule {
    std::vector<float> sigmas;     // one more than there are steps
    std::vector<float> timesteps;  // one a step, 0 to num_train_timesteps
  };
  /// The schedule that diffusers' FluxPipeline takes: sigmas evenly spaced from 1 to 1 / steps, shifted as the config
  /// says (with dynamic shifting by the number of image tokens).
  Schedule schedule(int steps, std::int64_t image_tokens) const;

 private:
  double dynamic_mu(std::int64_t image_tokens) const;

  std::int64_t num_train_timesteps_ = 1000;
  double shift_ = 1;
  bool use_dynamic_shifting_ = false;
  bool exponential_shift_ = true;
  double base_shift_ = 0.5;
  double max_shift_ = 1.15;
  std::int64_t base_image_seq_len_ = 256;
  std::int64_t max_image_seq_len_ = 4096;
  bool invert_sigmas_ = false;
  double shift_terminal_ = 0;
  bool use_karras_sigmas_ = false;
  bool use_exponential_sigmas_ = false;
};

/// One Euler step: sample += (sigma_next - sigma) * velocity, in float32.
void euler_step(std::span<float> sample, std::span<const float> velocity, float sigma, float sigma_next);

}  // namespace rondo
