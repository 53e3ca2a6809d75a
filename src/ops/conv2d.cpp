#include "ops/conv2d.h"

namespace rondo {

std::string Conv2dOp::attributes() const {
  return fmt::format("stride={} padding={},{},{},{}", stride_, padding_.top, padding_.bottom, padding_.left,
                     padding_.right);
}

std::vector<TensorType> Conv2dOp::infer(std::span<const TensorType> inputs) const {
  check_count(inputs, 2, 3);
  check_floating(inputs);
  const Shape& x = inputs[0].shape;
  const Shape& weight = inputs[1].shape;
  check(x.rank() == 4 && weight.rank() == 4 && x[3] == weight[1],
        "input {} and weight {} do not fit; allowed are [B, H, W, C] and [O, C, Kh, Kw]", x.to_string(),
        weight.to_string());
  if (inputs.size() == 3) {
    check(inputs[2].shape == Shape{weight[0]}, "bias {} does not fit weight {}", inputs[2].shape.to_string(),
          weight.to_string());
  }
  const std::int64_t height = x[1] + padding_.top + padding_.bottom - weight[2];
  const std::int64_t width = x[2] + padding_.left + padding_.right - weight[3];
  check(height >= 0 && width >= 0, "input {} is smaller than the kernel {}", x.to_string(), weight.to_string());
  TensorType result = inputs[0];
  result.shape = {x[0], height / stride_ + 1, width / stride_ + 1, weight[0]};
  return {result};
}

void Conv2dOp::reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const {
  const RefTensor& x = inputs[0];
  const RefTensor& weight = inputs[1];
  RefTensor& y = outputs[0];
  const std::int64_t channels = x.shape[3];
  const std::int64_t kernel_h = weight.shape[2];
  const std::int64_t kernel_w = weight.shape[3];
  std::size_t target = 0;
  for (std::int64_t b = 0; b < y.shape[0]; ++b) {
    for (std::int64_t oy = 0; oy < y.shape[1]; ++oy) {
      for (std::int64_t ox = 0; ox < y.shape[2]; ++ox) {
        for (std::int64_t o = 0; o < y.shape[3]; ++o) {
          double sum = inputs.size() == 3 ? inputs[2].values[o] : 0.0;
          for (std::int64_t ky = 0; ky < kernel_h; ++ky) {
            const std::int64_t iy = oy * stride_ + ky - padding_.top;
            if (iy < 0 || iy >= x.shape[1]) continue;
            for (std::int64_t kx = 0; kx < kernel_w; ++kx) {
              const std::int64_t ix = ox * stride_ + kx - padding_.left;
              if (ix < 0 || ix >= x.shape[2]) continue;
              for (std::int64_t c = 0; c < channels; ++c) {
                sum += x.values[((b * x.shape[1] + iy) * x.shape[2] + ix) * channels + c] *
                       weight.values[((o * channels + c) * kernel_h + ky) * kernel_w + kx];
              }
            }
          }
          y.values[target++] = sum;
        }
      }
    }
  }
}

double Conv2dOp::flops(std::span<const TensorType> inputs) const {
  const Shape& weight = inputs[1].shape;
  const Shape result = infer(inputs)[0].shape;
  return 2.0 * static_cast<double>(result.elements()) * static_cast<double>(weight[1] * weight[2] * weight[3]);
}

}  // namespace rondo
