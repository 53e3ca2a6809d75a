#include "cli/quality_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace rondo::cli {
namespace {

// Pixels.
constexpr double kLeft = 70;
constexpr double kTop = 40;
constexpr double kHeight = 320;
constexpr double kBottom = 90;  // for labels
constexpr double kRight = 230;  // for the legend
constexpr double kMostBetweenLabels = 60;

constexpr std::array kColours{"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"};

/// Powers of ten, logarithmic; what lies beyond, or is no number, is drawn at its ends.
struct Axis {
  int least;
  int most;

  double at(double value) const {
    const double power = std::isnan(value) ? most : std::clamp<double>(std::log10(value), least, most);
    return kTop + kHeight * (most - power) / (most - least);
  }
};

/// What spans the values within 1e-9 and 1.
Axis axis_of(const QualityPlot& plot) {
  double least = 0.1;
  double most = 1e-9;
  for (const PlotSeries& series : plot.series) {
    for (const double value : series.values) {
      if (value > 0) least = std::min(least, value);
      most = std::max(most, value);
    }
  }
  const int first = static_cast<int>(std::floor(std::log10(std::max(least, 1e-9))));
  const int last = static_cast<int>(std::ceil(std::log10(std::min(most, 1.0))));
  return {first, std::max(last, first + 1)};
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '&': result += "&amp;"; break;
      default: result += c;
    }
  }
  return result;
}

std::string text_at(double x, double y, const std::string& anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(text));
}

}  // namespace

std::string to_svg(const QualityPlot& plot) {
  const auto count = static_cast<double>(plot.labels.size());
  const double width = std::min(600.0, kMostBetweenLabels * count);
  const auto x_of = [&](std::size_t i) { return kLeft + width * (static_cast<double>(i) + 0.5) / count; };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kLeft + width + kRight, kTop + kHeight + kBottom);
  svg += text_at(kLeft, kTop - 16, "start", plot.title);
  svg += text_at(kLeft + width / 2, kTop + kHeight + kBottom - 10, "middle", plot.x_axis);
  svg += fmt::format("<text transform=\"translate(16 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                     kTop + kHeight / 2, escaped(plot.y_axis));
  const Axis axis = axis_of(plot);
  for (int power = axis.least; power <= axis.most; ++power) {
    const double y = axis.at(std::pow(10.0, power));
    svg += fmt::format("<line x1=\"{}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n", kLeft,
                       kLeft + width, y, y);
    svg += text_at(kLeft - 6, y + 4, "end", fmt::format("1e{}", power));
  }
  const std::size_t every = (plot.labels.size() + 23) / 24;
  for (std::size_t i = 0; i < plot.labels.size(); i += every) {
    svg += fmt::format("<text transform=\"translate({:.1f} {:.1f}) rotate(-40)\" text-anchor=\"end\">{}</text>\n",
                       x_of(i) + 4, kTop + kHeight + 16, escaped(plot.labels[i]));
  }
  for (std::size_t s = 0; s < plot.series.size(); ++s) {
    const char* colour = kColours[s % kColours.size()];
    std::string points;
    for (std::size_t i = 0; i < plot.series[s].values.size(); ++i) {
      const double y = axis.at(plot.series[s].values[i]);
      points += fmt::format("{:.1f},{:.1f} ", x_of(i), y);
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>\n", x_of(i), y, colour);
    }
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\"/>\n", points, colour);
    const double y = kTop + 18 * static_cast<double>(s) + 10;
    svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"4\" fill=\"{}\"/>\n", kLeft + width + 14,
                       y - 5, colour);
    svg += text_at(kLeft + width + 32, y, "start", plot.series[s].name);
  }
  return svg + "</svg>\n";
}

}  // namespace rondo::cli
