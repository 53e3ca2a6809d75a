// Weights that no file holds, for benchmarks: reproducible noise of a size that keeps activations in range.
#pragma once

#include <map>

#include "graph/graph.h"
#include "io/safetensors.h"
#include "io/weight_source.h"

namespace rondo {

class RandomWeights final : public WeightSource {
 public:
  /// One tensor for every weight of the graph, in the dtype in which the graph reads it.
  explicit RandomWeights(const Graph& graph);

  const std::string& source() const override { return source_; }
  const TensorRecord* find(const std::string& name) const override;
  /// Made anew at each call: kernels keep their packed form of it.
  Tensor tensor(const std::string& name) const override;
  std::vector<std::string> names() const override;

 private:
  std::string source_ = "random weights";
  std::map<std::string, TensorRecord> records_;
};

}  // namespace rondo
