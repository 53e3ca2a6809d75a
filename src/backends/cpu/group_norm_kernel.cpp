// GroupNorm over channels-last data: sums per channel in two passes, then one affine pass.
#include <array>
#include <cmath>

#include "backends/cpu/function_kernel.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/simd_rows.h"
#include "core/threads.h"
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

void run_group_norm(const KernelArgs& args, std::int64_t groups, double eps) {
  const Tensor& x = args.inputs[0];
  const std::int64_t channels = x.shape().back();
  const std::int64_t per_group = channels / groups;
  const std::int64_t positions = x.shape().rows() / x.shape()[0];
  const auto count = static_cast<double>(positions * per_group);
  const float* weight = args.inputs[1].as<float>();
  const float* bias = args.inputs[2].as<float>();
  const Scratch scratch(args, channels);
  const RowMap in(x);
  const RowMap out(args.outputs[0]);

  for (std::int64_t b = 0; b < x.shape()[0]; ++b) {
    const std::int64_t first_row = b * positions;
    const auto sum_over_threads = [&](auto&& pass) {
      std::fill_n(scratch.partial, args.threads * channels, 0.0);
      parallel_items(args.threads, args.threads, [&](std::int64_t part, int /*worker*/) {
        const RowRange rows{first_row + positions * part / args.threads,
                            first_row + positions * (part + 1) / args.threads, channels};
        pass(scratch.partial + part * channels, rows);
      });
    };
    sum_over_threads([&](double* sums, RowRange rows) { channel_sums(in, sums, rows); });
    for (std::int64_t g = 0; g < groups; ++g) {
      const double mean = group_sum(scratch, args.threads, channels, g * per_group, per_group) / count;
      std::fill_n(scratch.mean + g * per_group, per_group, static_cast<float>(mean));
    }
    sum_over_threads([&](double* sums, RowRange rows) { channel_square_sums(in, scratch.mean, sums, rows); });
    for (std::int64_t g = 0; g < groups; ++g) {
      const double variance = group_sum(scratch, args.threads, channels, g * per_group, per_group) / count;
      const double inverse = 1.0 / std::sqrt(variance + eps);
      for (std::int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
        scratch.scale[c] = static_cast<float>(inverse * static_cast<double>(weight[c]));
        scratch.shift[c] =
            static_cast<float>(static_cast<double>(bias[c]) -
                               static_cast<double>(scratch.mean[c]) * inverse * static_cast<double>(weight[c]));
      }
    }
    parallel_ranges(args.threads, positions, 16384 / channels + 1, [&](std::int64_t begin, std::int64_t end) {
      channel_affine(in, scratch.scale, scratch.shift, out, {first_row + begin, first_row + end, channels});
    });
  }
}

Refusal supports_group_norm(const KernelRequest& request) {
  if (!is_float_vector(request.inputs[1].prototype) || !is_float_vector(request.inputs[2].prototype)) {
    return "takes float32 weight and bias only";
  }
  return refuse_unless_simd_rows(request, 1);
}

std::unique_ptr<Kernel> make_group_norm(const KernelRequest& request) {
  const auto& op = static_cast<const GroupNormOp&>(request.op);
  return make_kernel(
      [groups = op.groups(), eps = op.eps()](const KernelArgs& args) { run_group_norm(args, groups, eps); },
      Scratch::bytes(request.threads, request.inputs[0].prototype.shape().back()));
}

constexpr std::array kEntries{KernelEntry{"group_norm", "simd", false, supports_group_norm, make_group_norm}};

}  // namespace

std::span<const KernelEntry> group_norm_kernels() { return kEntries; }

}  // namespace rondo::cpu
