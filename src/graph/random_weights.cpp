#include "graph/random_weights.h"

#include <cmath>
#include <functional>

#include "core/float_formats.h"
#include "rondo/error.h"

namespace rondo {

RandomWeights::RandomWeights(const Graph& graph) {
  for (const Value& value : graph.values) {
    if (value.kind == ValueKind::weight) records_[value.name] = {value.type.dtype, value.type.shape, 0, 0};
  }
}

const TensorRecord* RandomWeights::find(const std::string& name) const {
  const auto found = records_.find(name);
  return found == records_.end() ? nullptr : &found->second;
}

Tensor RandomWeights::tensor(const std::string& name) const {
  const TensorRecord* record = find(name);
  if (record == nullptr) throw FileError(fmt::format("{}: has no tensor '{}'", source_, name));
  Tensor tensor = Tensor::empty(record->shape, record->dtype);
  // Uniform with variance 1 / inputs, so that a product keeps its input's size; xorshift, since benchmarks make
  // billions.
  const auto inputs = static_cast<double>(std::max<std::int64_t>(1, record->shape.elements() / record->shape[0]));
  const auto range = static_cast<float>(std::sqrt(12.0 / inputs));
  std::uint64_t state = std::hash<std::string>()(name) | 1U;
  const std::int64_t count = tensor.elements();
  const auto fill = [&]<typename T>(T* target, auto&& convert) {
    for (std::int64_t i = 0; i < count; ++i) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      target[i] = convert((static_cast<float>(state >> 40) * 0x1p-24F - 0.5F) * range);
    }
  };
  if (record->dtype == DType::f32) {
    fill(tensor.as<float>(), [](float value) { return value; });
  } else {
    fill(tensor.as<std::uint16_t>(), float_to_bf16);
  }
  return tensor;
}

std::vector<std::string> RandomWeights::names() const {
  std::vector<std::string> result;
  for (const auto& [name, record] : records_) result.push_back(name);
  return result;
}

}  // namespace rondo
