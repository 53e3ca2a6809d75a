// What cuBLASLt and cuDNN do, in plain loops: sums in doubles, of whole numbers in integers.
#include <cmath>

#include "backends/cuda/convolutions.h"
#include "backends/cuda/products.h"
#include "emulated_gpu.h"

namespace rondo::cuda {
namespace {

std::vector<double> values_of(const Tensor& tensor) {
  const Tensor on_cpu = Tensor::borrow(const_cast<void*>(tensor.data()), tensor.shape(), tensor.dtype()).to_float32();
  return {on_cpu.as<float>(), on_cpu.as<float>() + on_cpu.elements()};
}

void store(const std::vector<float>& values, const Tensor& y) {
  Tensor target = Tensor::borrow(const_cast<void*>(y.data()), y.shape(), y.dtype());
  Tensor source = Tensor::empty(y.shape(), DType::f32);
  std::copy(values.begin(), values.end(), source.as<float>());
  const Tensor rounded = source.to(y.dtype());
  std::copy_n(rounded.as<std::byte>(), rounded.bytes(), target.as<std::byte>());
}

class LoopProduct final : public Product {
 public:
  explicit LoopProduct(const ProductShape& shape) : shape_(shape) {}

  void run(const CudaRun& run, const ProductOperands& o) const override {
    ProductOperands operands = o;
    for (Tensor* operand : {&operands.x, &operands.w, &operands.bias, &operands.y}) *operand = unowned(*operand);
    submit(run.handle(), [this, operands] { multiply(operands); });
  }

 private:
  void multiply(const ProductOperands& o) const {
    Tensor y = o.y;
    if (shape_.dtype == DType::s8) return whole(o.x.as<std::int8_t>(), o.w.as<std::int8_t>(), y.as<std::int32_t>());
    const std::vector<double> left = values_of(o.x);
    const std::vector<double> right = values_of(o.w);
    const std::vector<double> added = o.bias.defined() ? values_of(o.bias) : std::vector<double>();
    std::vector<float> result;
    result.reserve(static_cast<std::size_t>(shape_.rows * shape_.outputs));
    for (std::int64_t m = 0; m < shape_.rows; ++m) {
      for (std::int64_t n = 0; n < shape_.outputs; ++n) {
        double sum = 0;
        const double* const a = left.data() + m * shape_.inputs;
        const double* const b = right.data() + n * shape_.inputs;
        for (std::int64_t k = 0; k < shape_.inputs; ++k) sum += a[k] * b[k];
        sum *= scale(o, m, n);
        if (o.bias.defined()) sum += added[static_cast<std::size_t>(n)];
        if (shape_.gelu) sum *= 0.5 * (1 + std::tanh(0.79788456080286536 * (sum + 0.044715 * sum * sum * sum)));
        result.push_back(static_cast<float>(sum));
      }
    }
    store(result, y);
  }

  double scale(const ProductOperands& o, std::int64_t row, std::int64_t column) const {
    if (shape_.scales == ProductShape::Scales::none) return 1;
    const bool per_row = shape_.scales == ProductShape::Scales::per_row;
    return static_cast<double>(o.row_scales[per_row ? row : 0]) *
           static_cast<double>(o.column_scales[per_row ? column : 0]);
  }

  void whole(const std::int8_t* x, const std::int8_t* w, std::int32_t* y) const {
    for (std::int64_t m = 0; m < shape_.rows; ++m) {
      for (std::int64_t n = 0; n < shape_.outputs; ++n) {
        std::int32_t sum = 0;
        for (std::int64_t k = 0; k < shape_.inputs; ++k) sum += x[m * shape_.inputs + k] * w[n * shape_.inputs + k];
        y[m * shape_.outputs + n] = sum;
      }
    }
  }

  ProductShape shape_;
};

class LoopConvolution final : public Convolution {
 public:
  explicit LoopConvolution(const ConvolutionShape& shape) : shape_(shape) {}

  void run(const CudaRun& run, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y) const override {
    submit(run.handle(), [this, source = unowned(x), filters = unowned(weight), added = unowned(bias),
                          target = unowned(y)] { convolve(source, filters, added, target); });
  }

 private:
  void convolve(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& y) const {
    const std::vector<double> picture = values_of(x);
    const std::vector<double> filters = values_of(weight);
    const std::vector<double> added = bias.defined() ? values_of(bias) : std::vector<double>();
    std::vector<float> result;
    for (std::int64_t b = 0; b < shape_.y[0]; ++b) {
      for (std::int64_t row = 0; row < shape_.y[1]; ++row) {
        for (std::int64_t column = 0; column < shape_.y[2]; ++column) {
          for (std::int64_t o = 0; o < shape_.y[3]; ++o) {
            const double sum = (bias.defined() ? added[static_cast<std::size_t>(o)] : 0) +
                               at(picture.data(), filters.data(), b, row, column, o);
            result.push_back(static_cast<float>(sum));
          }
        }
      }
    }
    store(result, y);
  }

  double at(const double* picture, const double* filters, std::int64_t b, std::int64_t row, std::int64_t column,
            std::int64_t o) const {
    const Shape& in = shape_.x;
    const Shape& w = shape_.weight;
    double sum = 0;
    for (std::int64_t i = 0; i < w[2]; ++i) {
      for (std::int64_t j = 0; j < w[3]; ++j) {
        const std::int64_t y = row * shape_.stride + i - shape_.padding.top;
        const std::int64_t x = column * shape_.stride + j - shape_.padding.left;
        if (y < 0 || y >= in[1] || x < 0 || x >= in[2]) continue;
        const double* const pixel = picture + ((b * in[1] + y) * in[2] + x) * in[3];
        const double* const filter = filters + ((o * w[2] + i) * w[3] + j) * w[1];
        for (std::int64_t c = 0; c < w[1]; ++c) sum += pixel[c] * filter[c];
      }
    }
    return sum;
  }

  ConvolutionShape shape_;
};

}  // namespace

/// As cuBLASLt has it: a scale for each row on Hopper alone.
std::unique_ptr<const Product> find_product(const ProductShape& shape) {
  constexpr int kHopper = 90;
  if (shape.scales == ProductShape::Scales::per_row && emulated_capability() != kHopper) return nullptr;
  return std::make_unique<LoopProduct>(shape);
}

const std::string& convolutions_missing() {
  static const std::string none;
  return none;
}

std::unique_ptr<const Convolution> make_convolution(const ConvolutionShape& shape) {
  return std::make_unique<LoopConvolution>(shape);
}

}  // namespace rondo::cuda
