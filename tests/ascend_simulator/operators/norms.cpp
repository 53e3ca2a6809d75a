// Normalisations.
#include <tuple>
#include <utility>

#include "operator.h"

namespace {

/// (mean, 1 / sqrt(variance + epsilon)) of `count` values.
std::pair<double, double> moments(const double* values, std::size_t count, double epsilon) {
  double mean = 0;
  for (std::size_t i = 0; i < count; ++i) mean += values[i];
  mean /= static_cast<double>(count);
  double squares = 0;
  for (std::size_t i = 0; i < count; ++i) squares += (values[i] - mean) * (values[i] - mean);
  return {mean, 1 / std::sqrt(squares / static_cast<double>(count) + epsilon)};
}

bool parameter_fits(const aclTensor* parameter, const aclTensor* x, bool may_be_wider) {
  return parameter == nullptr || parameter->dtype == x->dtype || (may_be_wider && parameter->dtype == Dtype::float32);
}

}  // namespace

extern "C" {

int aclnnRmsNormGetWorkspaceSize(const aclTensor* x, const aclTensor* gamma, double epsilon, const aclTensor* y,
                                 const aclTensor* rstd, WORKSPACE_AND_EXECUTOR) {
  const std::string chip = soc_name();
  const bool inference = chip.rfind("Ascend310P", 0) == 0;
  std::string broken = rule(soc_has_bfloat16() || inference, "this chip has no RmsNorm");
  if (broken.empty() && x != nullptr && gamma != nullptr && y != nullptr && rstd != nullptr) {
    Dims rows = x->dims;
    rows.back() = 1;
    broken = rule(gamma->dims == Dims{x->dims.back()}, "gamma's shape", y->dims == x->dims, "y's shape",
                  rstd->dims == rows, "rstd's shape", y->dtype == x->dtype, "dtypes differ",
                  parameter_fits(gamma, x, soc_has_bfloat16()), "gamma's dtype");
  }
  return plan("aclnnRmsNorm", workspace_bytes, executor,
              {in(x, "x"), in(gamma, "gamma"), dense(y, "y"), dense(rstd, "rstd", {Dtype::float32})}, broken,
              [x = view_of(x), gamma = view_of(gamma), epsilon, y = view_of(y), rstd = view_of(rstd)] {
                std::vector<double> values = x.values();
                const std::vector<double> weight = gamma.values();
                std::vector<double> factors(static_cast<std::size_t>(rstd.elements()));
                for (std::size_t row = 0; row < factors.size(); ++row) {
                  double* const at = values.data() + row * weight.size();
                  double squares = 0;
                  for (std::size_t i = 0; i < weight.size(); ++i) squares += at[i] * at[i];
                  factors[row] = 1 / std::sqrt(squares / static_cast<double>(weight.size()) + epsilon);
                  for (std::size_t i = 0; i < weight.size(); ++i) at[i] *= factors[row] * weight[i];
                }
                y.store(values);
                rstd.store(factors);
              });
}

int aclnnLayerNormGetWorkspaceSize(const aclTensor* x, const aclIntArray* shape, const aclTensor* weight,
                                   const aclTensor* bias, double epsilon, aclTensor* y, aclTensor* mean_out,
                                   aclTensor* rstd_out, WORKSPACE_AND_EXECUTOR) {
  if (shape == nullptr) return kNullPointer;
  std::string broken;
  if (x != nullptr && y != nullptr) {
    const Dims width{x->dims.back()};
    broken =
        rule(shape->values == width, "this simulator normalises the last axis only", y->dims == x->dims, "y's shape",
             y->dtype == x->dtype, "dtypes differ",
             (weight == nullptr || weight->dims == width) && (bias == nullptr || bias->dims == width),
             "weight's or bias's shape", parameter_fits(weight, x, true) && parameter_fits(bias, x, true),
             "weight's or bias's dtype", weight == nullptr || bias == nullptr || weight->dtype == bias->dtype,
             "weight and bias differ", mean_out == nullptr && rstd_out == nullptr, "this simulator gives no moments");
  }
  return plan("aclnnLayerNorm", workspace_bytes, executor,
              {in(x, "input"), optional_in(weight, "weight"), optional_in(bias, "bias"), dense(y, "out")}, broken,
              [x = view_of(x), has_weight = weight != nullptr, weight = view_of(weight), has_bias = bias != nullptr,
               bias = view_of(bias), epsilon, y = view_of(y)] {
                std::vector<double> values = x.values();
                const std::vector<double> w = has_weight ? weight.values() : std::vector<double>();
                const std::vector<double> b = has_bias ? bias.values() : std::vector<double>();
                const auto width = static_cast<std::size_t>(x.dims.back());
                for (std::size_t begin = 0; begin < values.size(); begin += width) {
                  const auto [mean, factor] = moments(values.data() + begin, width, epsilon);
                  for (std::size_t i = 0; i < width; ++i) {
                    double& value = values[begin + i];
                    value = (value - mean) * factor * (has_weight ? w[i] : 1) + (has_bias ? b[i] : 0);
                  }
                }
                y.store(values);
              });
}

int aclnnGroupNormGetWorkspaceSize(const aclTensor* x, const aclTensor* gamma, const aclTensor* beta, std::int64_t n,
                                   std::int64_t c, std::int64_t hxw, std::int64_t groups, double epsilon, aclTensor* y,
                                   aclTensor* mean, aclTensor* rstd, WORKSPACE_AND_EXECUTOR) {
  std::string broken = rule(epsilon > 0 && groups > 0 && c % groups == 0, "groups or epsilon");
  if (broken.empty() && x != nullptr && gamma != nullptr && beta != nullptr && y != nullptr && mean != nullptr &&
      rstd != nullptr) {
    broken = rule(x->dims.size() >= 2 && x->dims[0] == n && x->dims[1] == c && x->elements() == n * c * hxw,
                  "N, C and HxW do not fit", y->dims == x->dims, "out's shape",
                  gamma->dims == Dims{c} && beta->dims == Dims{c}, "gamma's or beta's shape",
                  mean->dims == Dims{n, groups} && rstd->dims == Dims{n, groups}, "moments' shapes",
                  gamma->dtype == x->dtype && beta->dtype == x->dtype && y->dtype == x->dtype &&
                      mean->dtype == x->dtype && rstd->dtype == x->dtype,
                  "dtypes differ");
  }
  return plan("aclnnGroupNorm", workspace_bytes, executor,
              {in(x, "self"), in(gamma, "gamma"), in(beta, "beta"), dense(y, "out"), dense(mean, "meanOut"),
               dense(rstd, "rstdOut")},
              broken,
              [x = view_of(x), gamma = view_of(gamma), beta = view_of(beta), groups, hxw, epsilon, y = view_of(y),
               mean = view_of(mean), rstd = view_of(rstd)] {
                std::vector<double> values = x.values();
                const std::vector<double> w = gamma.values();
                const std::vector<double> b = beta.values();
                std::vector<double> means(static_cast<std::size_t>(mean.elements()));
                std::vector<double> factors(means.size());
                const std::size_t channels = w.size() / static_cast<std::size_t>(groups);
                const std::size_t width = channels * static_cast<std::size_t>(hxw);
                for (std::size_t part = 0; part < means.size(); ++part) {
                  double* const at = values.data() + part * width;
                  std::tie(means[part], factors[part]) = moments(at, width, epsilon);
                  const std::size_t first = part % static_cast<std::size_t>(groups) * channels;
                  for (std::size_t i = 0; i < width; ++i) {
                    const std::size_t channel = first + i / static_cast<std::size_t>(hxw);
                    at[i] = (at[i] - means[part]) * factors[part] * w[channel] + b[channel];
                  }
                }
                y.store(values);
                mean.store(means);
                rstd.store(factors);
              });
}

}  // extern "C"

SECOND_PHASE(aclnnRmsNorm)
SECOND_PHASE(aclnnLayerNorm)
SECOND_PHASE(aclnnGroupNorm)
