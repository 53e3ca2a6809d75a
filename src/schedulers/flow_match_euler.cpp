#include "schedulers/flow_match_euler.h"

#include <cmath>

namespace rondo {
namespace {

/// numpy's linspace in float64: the last value is exact.
std::vector<double> linspace(double from, double to, int count) {
  std::vector<double> values(static_cast<std::size_t>(count), from);
  const double step = count > 1 ? (to - from) / (count - 1) : 0;
  for (int i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = from + i * step;
  if (count > 1) values.back() = to;
  return values;
}

}  // namespace

FlowMatchEulerScheduler FlowMatchEulerScheduler::parse(const JsonConfig& json) {
  FlowMatchEulerScheduler s;
  s.num_train_timesteps_ = json.integer("num_train_timesteps", 1000, 1, 1'000'000);
  s.shift_ = json.number("shift", 1.0, 1e-3, 1e3);
  s.use_dynamic_shifting_ = json.boolean("use_dynamic_shifting", false);
  const std::string type = json.text("time_shift_type", "exponential");
  if (type != "exponential" && type != "linear") json.refuse("time_shift_type", "allowed are exponential and linear");
  s.exponential_shift_ = type == "exponential";
  s.base_shift_ = json.number("base_shift", 0.5, -50, 50);
  s.max_shift_ = json.number("max_shift", 1.15, -50, 50);
  s.base_image_seq_len_ = json.integer("base_image_seq_len", 256, 1, 1 << 30);
  s.max_image_seq_len_ = json.integer("max_image_seq_len", 4096, 1, 1 << 30);
  if (s.max_image_seq_len_ == s.base_image_seq_len_)
    json.refuse("max_image_seq_len", "allowed is other than base_image_seq_len");
  s.invert_sigmas_ = json.boolean("invert_sigmas", false);
  s.shift_terminal_ = json.number("shift_terminal", 0.0, 0.0, 0.999);
  s.use_karras_sigmas_ = json.boolean("use_karras_sigmas", false);
  s.use_exponential_sigmas_ = json.boolean("use_exponential_sigmas", false);
  if (s.use_karras_sigmas_ && s.use_exponential_sigmas_) {
    json.refuse("use_exponential_sigmas", "allowed is one of use_karras_sigmas and use_exponential_sigmas");
  }
  for (const char* key : {"use_beta_sigmas", "stochastic_sampling", "use_flow_sigmas"}) {
    if (json.boolean(key, false)) json.refuse(key, "it is not supported; allowed is false");
  }
  return s;
}

double FlowMatchEulerScheduler::dynamic_mu(std::int64_t image_tokens) const {
  const double slope = (max_shift_ - base_shift_) / static_cast<double>(max_image_seq_len_ - base_image_seq_len_);
  const double offset = base_shift_ - slope * static_cast<double>(base_image_seq_len_);
  return static_cast<double>(image_tokens) * slope + offset;
}

FlowMatchEulerScheduler::Schedule FlowMatchEulerScheduler::schedule(int steps, std::int64_t image_tokens) const {
  // float32 where numpy computes in float32: the schedule is compared with diffusers' to the last bit or two.
  std::vector<float> sigmas;
  for (const double sigma : linspace(1.0, 1.0 / steps, steps)) sigmas.push_back(static_cast<float>(sigma));

  if (use_dynamic_shifting_) {
    const double mu = dynamic_mu(image_tokens);
    const auto factor = static_cast<float>(exponential_shift_ ? std::exp(mu) : mu);
    for (float& sigma : sigmas) sigma = factor / (factor + (1.0F / sigma - 1.0F));
  } else {
    const auto shift = static_cast<float>(shift_);
    const auto less_one = static_cast<float>(shift_ - 1.0);
    for (float& sigma : sigmas) sigma = shift * sigma / (1.0F + less_one * sigma);
  }
  if (shift_terminal_ != 0) {
    const float stretch = (1.0F - sigmas.back()) / static_cast<float>(1.0 - shift_terminal_);
    // One step ends where it begins, at sigma 1: there is nothing to stretch.
    if (stretch != 0) {
      for (float& sigma : sigmas) sigma = 1.0F - (1.0F - sigma) / stretch;
    }
  }
  if (use_karras_sigmas_ || use_exponential_sigmas_) {
    const auto most = static_cast<double>(sigmas.front());
    const auto least = static_cast<double>(sigmas.back());
    constexpr double kRho = 7.0;  // Karras et al., 2022
    if (use_karras_sigmas_) {
      const double from = std::pow(most, 1 / kRho);
      const double to = std::pow(least, 1 / kRho);
      const std::vector<double> ramp = linspace(0, 1, steps);
      for (std::size_t i = 0; i < sigmas.size(); ++i)
        sigmas[i] = static_cast<float>(std::pow(from + ramp[i] * (to - from), kRho));
    } else {
      const std::vector<double> logs = linspace(std::log(most), std::log(least), steps);
      for (std::size_t i = 0; i < sigmas.size(); ++i) sigmas[i] = static_cast<float>(std::exp(logs[i]));
    }
  }

  Schedule schedule;
  for (float& sigma : sigmas) {
    if (invert_sigmas_) sigma = 1.0F - sigma;
    schedule.timesteps.push_back(sigma * static_cast<float>(num_train_timesteps_));
  }
  schedule.sigmas = std::move(sigmas);
  schedule.sigmas.push_back(invert_sigmas_ ? 1.0F : 0.0F);
  return schedule;
}

void euler_step(std::span<float> sample, std::span<const float> velocity, float sigma, float sigma_next) {
  const float step = sigma_next - sigma;
  for (std::size_t i = 0; i < sample.size(); ++i) sample[i] += step * velocity[i];
}

}  // namespace rondo
