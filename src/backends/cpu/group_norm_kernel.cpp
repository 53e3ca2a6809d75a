// GroupNorm over channels-last data: sums per channel in two passes, then one affine pass.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "backends/cpu/kernel_checks.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/simd_rows.h"
#include "backends/function_kernel.h"
#include "core/threads.h"
#include "ops/group_moments.h"
#include "ops/norms.h"

namespace rondo::cpu {
namespace {

/// Scratch: per thread one double a channel, then mean, scale and shift as floats.
struct Scratch {
  Scratch(const KernelArgs& args, std::int64_t channels)
      : partial(reinterpret_cast<double*>(args.scratch.data())),
        mean(reinterpret_cast<float*>(partial + args.threads * channels)),
        scale(mean + channels),
        shift(scale + channels) {}
  static std::size_t bytes(int threads, std::int64_t channels) {
    return static_cast<std::size_t>(channels) *
           (static_cast<std::size_t>(threads) * sizeof(double) + 3 * sizeof(float));
  }
  double* partial;
  float* mean;
  float* scale;
  float* shift;
};

/// Sums of the group that starts at channel `first`, over all threads' partial sums.
double group_sum(const Scratch& scratch, int threads, std::int64_t channels, std::int64_t first, std::int64_t count) {
  double sum = 0;
  for (int t = 0; t < threads; ++t) {
    for (std::int64_t c = first; c < first + count; ++c) sum += scratch.partial[t * channels + c];
  }
  return sum;
}

struct Moments {
  double mean;
  double variance;
};

/// Mean and variance of each group of batch row `b`; of no positions 0 and 0.
std::vector<Moments> group_moments(const KernelArgs& args, const Scratch& scratch, std::int64_t b,
                                   std::int64_t groups) {
  const Tensor& x = args.inputs[0];
  const std::int64_t channels = x.shape().back();
  const std::int64_t per_group = channels / groups;
  const std::int64_t positions = x.shape().rows() / x.shape()[0];
  const auto count = static_cast<double>(std::max<std::int64_t>(1, positions * per_group));
  const RowMap in(x);
  std::vector<Moments> moments(static_cast<std::size_t>(groups));
  const auto sum_over_threads = [&](auto&& pass) {
    std::fill_n(scratch.partial, args.threads * channels, 0.0);
    parallel_items(args.threads, args.threads, [&](std::int64_t part, int /*worker*/) {
      const RowRange rows{b * positions + positions * part / args.threads,
                          b * positions + positions * (part + 1) / args.threads, channels};
      pass(scratch.partial + part * channels, rows);
    });
  };
  sum_over_threads([&](double* sums, RowRange rows) { channel_sums(in, sums, rows); });
  for (std::int64_t g = 0; g < groups; ++g) {
    const double mean = group_sum(scratch, args.threads, channels, g * per_group, per_group) / count;
    std::fill_n(scratch.mean + g * per_group, per_group, static_cast<float>(mean));
    moments[static_cast<std::size_t>(g)].mean = mean;
  }
  sum_over_threads([&](double* sums, RowRange rows) { channel_square_sums(in, scratch.mean, sums, rows); });
  for (std::int64_t g = 0; g < groups; ++g)
    moments[static_cast<std::size_t>(g)].variance =
        group_sum(scratch, args.threads, channels, g * per_group, per_group) / count;
  return moments;
}

/// Normalises batch row `b`.
void apply_moments(const KernelArgs& args, const Scratch& scratch, std::int64_t b, std::span<const Moments> moments,
                   const Tensor& weight, const Tensor& bias, double eps) {
  const Tensor& x = args.inputs[0];
  const std::int64_t channels = x.shape().back();
  const std::int64_t per_group = channels / static_cast<std::int64_t>(moments.size());
  const std::int64_t positions = x.shape().rows() / x.shape()[0];
  for (std::int64_t c = 0; c < channels; ++c) {
    const auto [mean, variance] = moments[static_cast<std::size_t>(c / per_group)];
    const double scale = static_cast<double>(weight.as<float>()[c]) / std::sqrt(variance + eps);
    scratch.scale[c] = static_cast<float>(scale);
    scratch.shift[c] = static_cast<float>(static_cast<double>(bias.as<float>()[c]) -
                                          static_cast<double>(static_cast<float>(mean)) * scale);
  }
  const RowMap in(x);
  const RowMap out(args.outputs[0]);
  parallel_ranges(args.threads, positions, 16384 / channels + 1, [&](std::int64_t begin, std::int64_t end) {
    channel_affine(in, scratch.scale, scratch.shift, out, {b * positions + begin, b * positions + end, channels});
  });
}

void run_group_norm(const KernelArgs& args, std::int64_t groups, double eps) {
  const Scratch scratch(args, args.inputs[0].shape().back());
  for (std::int64_t b = 0; b < args.inputs[0].shape()[0]; ++b)
    apply_moments(args, scratch, b, group_moments(args, scratch, b, groups), args.inputs[1], args.inputs[2], eps);
}

void run_group_moments(const KernelArgs& args, std::int64_t groups) {
  const Scratch scratch(args, args.inputs[0].shape().back());
  float* target = args.outputs[0].as<float>();
  for (std::int64_t b = 0; b < args.inputs[0].shape()[0]; ++b) {
    for (const Moments& moments : group_moments(args, scratch, b, groups)) {
      *target++ = static_cast<float>(moments.mean);
      *target++ = static_cast<float>(moments.variance);
    }
  }
}

void run_group_norm_by_moments(const KernelArgs& args, std::span<const std::int64_t> counts, double eps) {
  const Scratch scratch(args, args.inputs[0].shape().back());
  const Shape& shape = args.inputs[1].shape();
  const std::int64_t groups = shape[2];
  for (std::int64_t b = 0; b < shape[1]; ++b) {
    std::vector<Moments> moments;
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto [mean, variance] = joined_moments(counts, [&](std::size_t part) {
        const float* pair =
            args.inputs[1].as<float>() + ((static_cast<std::int64_t>(part) * shape[1] + b) * groups + g) * 2;
        return std::pair(static_cast<double>(pair[0]), static_cast<double>(pair[1]));
      });
      moments.push_back({mean, variance});
    }
    apply_moments(args, scratch, b, moments, args.inputs[2], args.inputs[3], eps);
  }
}

/// Weight and bias are the last inputs.
Refusal supports_group_norm(const KernelRequest& request) {
  for (const KernelInput& parameter : request.inputs.last(2)) {
    if (!is_float_vector(parameter.prototype)) return "takes float32 weight and bias only";
  }
  return refuse_unless_simd_rows(request, 1);
}

Refusal supports_group_moments(const KernelRequest& request) { return refuse_unless_simd_rows(request, 1); }

std::size_t scratch_bytes(const KernelRequest& request) {
  return Scratch::bytes(request.threads, request.inputs[0].prototype.shape().back());
}

std::unique_ptr<Kernel> make_group_norm(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormOp&>(request.op);
  return make_kernel(
      [groups = op.groups(), eps = op.eps()](const KernelArgs& args) { run_group_norm(args, groups, eps); },
      scratch_bytes(request));
}

std::unique_ptr<Kernel> make_group_moments(const KernelRequest& request) {
  const std::int64_t groups = static_cast<const GroupMomentsOp&>(request.op).groups();
  return make_kernel([groups](const KernelArgs& args) { run_group_moments(args, groups); }, scratch_bytes(request));
}

std::unique_ptr<Kernel> make_group_norm_by_moments(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormByMomentsOp&>(request.op);
  return make_kernel(
      [counts = op.counts(), eps = op.eps()](const KernelArgs& args) { run_group_norm_by_moments(args, counts, eps); },
      scratch_bytes(request));
}

constexpr std::array kEntries{
    KernelEntry{"group_norm", "simd", false, supports_group_norm, make_group_norm},
    KernelEntry{"group_moments", "simd", false, supports_group_moments, make_group_moments},
    KernelEntry{"group_norm_by_moments", "simd", false, supports_group_norm, make_group_norm_by_moments}};

}  // namespace

std::span<const KernelEntry> group_norm_kernels() { return kEntries; }

}  // namespace rondo::cpu
