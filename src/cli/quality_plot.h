// A plot of what quantising loses, as SVG.
#pragma once

#include <string>
#include <vector>

namespace rondo::cli {

/// One line: a value for each label.
struct PlotSeries {
  std::string name;
  std::vector<double> values;
};

struct QualityPlot {
  std::string title;
  std::string x_axis;
  std::string y_axis;
  std::vector<std::string> labels;
  std::vector<PlotSeries> series;
};

/// Values on a logarithmic axis.
std::string to_svg(const QualityPlot& plot);

}  // namespace rondo::cli
