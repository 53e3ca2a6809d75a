#include "pipelines/picture_quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "rondo/error.h"

namespace rondo {
namespace {

/// ITU-R BT.601
std::vector<double> luma(const Image& image) {
  std::vector<double> values;
  for (std::size_t i = 0; i + 2 < image.pixels.size(); i += 3)
    values.push_back(0.299 * image.pixels[i] + 0.587 * image.pixels[i + 1] + 0.114 * image.pixels[i + 2]);
  return values;
}

/// SSIM's Gaussian window: sigma 1.5, 11 wide.
std::vector<double> window_weights(int size) {
  constexpr double kSigma = 1.5;
  std::vector<double> weights;
  double sum = 0;
  for (int i = 0; i < size; ++i) {
    const double x = i - (size - 1) / 2.0;
    weights.push_back(std::exp(-x * x / (2 * kSigma * kSigma)));
    sum += weights.back();
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

double structural_similarity(const Image& wanted, const Image& given) {
  constexpr double kC1 = 0.01 * 255 * 0.01 * 255;
  constexpr double kC2 = 0.03 * 255 * 0.03 * 255;
  const std::vector<double> a = luma(wanted);
  const std::vector<double> b = luma(given);
  const int high = std::min(11, wanted.height);
  const int wide = std::min(11, wanted.width);
  const std::vector<double> rows = window_weights(high);
  const std::vector<double> columns = window_weights(wide);
  double total = 0;
  std::int64_t count = 0;
  for (int top = 0; top + high <= wanted.height; ++top) {
    for (int left = 0; left + wide <= wanted.width; ++left, ++count) {
      double mean_a = 0;
      double mean_b = 0;
      double square_a = 0;
      double square_b = 0;
      double product = 0;
      for (int y = 0; y < high; ++y) {
        for (int x = 0; x < wide; ++x) {
          const double weight = rows[static_cast<std::size_t>(y)] * columns[static_cast<std::size_t>(x)];
          const auto at = static_cast<std::size_t>(top + y) * static_cast<std::size_t>(wanted.width) +
                          static_cast<std::size_t>(left + x);
          mean_a += weight * a[at];
          mean_b += weight * b[at];
          square_a += weight * a[at] * a[at];
          square_b += weight * b[at] * b[at];
          product += weight * a[at] * b[at];
        }
      }
      const double variances = square_a - mean_a * mean_a + square_b - mean_b * mean_b;
      total += (2 * mean_a * mean_b + kC1) * (2 * (product - mean_a * mean_b) + kC2) /
               ((mean_a * mean_a + mean_b * mean_b + kC1) * (variances + kC2));
    }
  }
  return total / static_cast<double>(count);
}

}  // namespace

PictureQuality compare_pictures(const Image& wanted, const Image& given) {
  if (wanted.width != given.width || wanted.height != given.height || wanted.pixels.empty()) {
    throw InvalidArgument(fmt::format("pictures: are {} x {} and {} x {}; allowed are two of one size", wanted.width,
                                      wanted.height, given.width, given.height));
  }
  double squares = 0;
  for (std::size_t i = 0; i < wanted.pixels.size(); ++i) {
    const double difference = static_cast<double>(wanted.pixels[i]) - static_cast<double>(given.pixels[i]);
    squares += difference * difference;
  }
  const double mean = squares / static_cast<double>(wanted.pixels.size());
  return {mean > 0 ? 10 * std::log10(255.0 * 255.0 / mean) : std::numeric_limits<double>::infinity(),
          structural_similarity(wanted, given)};
}

TensorQuality compare_values(std::span<const float> wanted, std::span<const float> given) {
  double dot = 0;
  double norm_wanted = 0;
  double norm_given = 0;
  double error = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double a = wanted[i];
    const double b = given[i];
    dot += a * b;
    norm_wanted += a * a;
    norm_given += b * b;
    error += (b - a) * (b - a);
  }
  if (norm_wanted == 0 && norm_given == 0) return {};
  const double norms = std::sqrt(norm_wanted * norm_given);
  return {norms > 0 ? dot / norms : 0, norm_wanted > 0 ? std::sqrt(error / norm_wanted) : INFINITY};
}

}  // namespace rondo
