// Attention on one's own memory: which kernels could run it, its output, and the log of the softmax's denominator.
#include <rondo/attention.h>
#include <rondo/error.h>

#include <cstdio>
#include <random>
#include <vector>

int main() {
  constexpr std::int64_t kTokens = 256;
  constexpr std::int64_t kHeads = 8;
  constexpr std::int64_t kHeadDim = 64;
  const rondo::Shape shape{1, kTokens, kHeads, kHeadDim};
  std::vector<float> memory(3 * static_cast<std::size_t>(shape.elements()));
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (float& value : memory) value = normal(engine);

  // Tensors that borrow: no copy is made.
  const auto part = [&](std::int64_t i) {
    return rondo::Tensor::borrow(memory.data() + i * shape.elements(), shape, rondo::DType::f32);
  };
  try {
    rondo::AttentionOptions options;
    options.causal = true;
    options.return_lse = true;
    for (const auto& [name, refusal] : rondo::attention_backends(part(0), part(1), part(2), {}, options))
      std::printf("%-12s %s\n", name.c_str(), refusal ? refusal->c_str() : "can");
    const rondo::AttentionResult result = rondo::attention_forward(part(0), part(1), part(2), {}, options);
    std::printf("output %s, first value %.6f, first lse %.6f\n", result.output.shape().to_string().c_str(),
                *result.output.as<float>(), *result.lse.as<float>());
  } catch (const rondo::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
