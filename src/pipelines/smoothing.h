// Smoothing factors from a calibration run (SmoothQuant: Xiao et al., 2023).
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "io/weight_source.h"

namespace rondo {

/// The largest magnitude of each input channel of each linear layer.
using InputRanges = std::map<std::string, std::vector<float>>;

/// Draws a picture for each prompt, unquantised, and looks at every linear of the transformer. Throws Cancelled.
InputRanges measure_input_ranges(const std::string& folder, const std::vector<std::string>& prompts, std::int64_t steps,
                                 const std::atomic<bool>* cancel);

/// Factors [K] for every layer in `ranges`: max|x_k|^strength / max|w_k|^(1 - strength). Layers that read the same
/// value of `graph` get the same factors, over the weights of all, so that they can still become one product.
std::map<std::string, Tensor> smoothing_factors(const Graph& graph, const WeightSource& weights,
                                                const InputRanges& ranges, double strength);

}  // namespace rondo
