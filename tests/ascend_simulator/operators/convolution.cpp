// Convolution, in a file of its own: a variant of the operators' library is without it.
#include <algorithm>

#include "operator.h"

extern "C" {

int aclnnConvolutionGetWorkspaceSize(const aclTensor* x, const aclTensor* weight, const aclTensor* bias,
                                     const aclIntArray* stride, const aclIntArray* padding, const aclIntArray* dilation,
                                     bool transposed, const aclIntArray* output_padding, std::int64_t groups,
                                     aclTensor* y, std::int8_t math, WORKSPACE_AND_EXECUTOR) {
  if (stride == nullptr || padding == nullptr || dilation == nullptr || output_padding == nullptr) return kNullPointer;
  std::string broken = math_rule(x, math);
  if (broken.empty() && x != nullptr && weight != nullptr && y != nullptr) {
    const bool arrays = stride->values.size() == 2 && padding->values.size() == 2 && dilation->values == Dims{1, 1} &&
                        output_padding->values.size() == 2 && !transposed && groups == 1;
    broken = rule(arrays, "this simulator takes plain two-dimensional convolutions only",
                  x->format == Format::nchw && weight->format == Format::nchw && y->format == Format::nchw,
                  "formats: NCHW is needed", x->dims.size() == 4 && weight->dims.size() == 4 && y->dims.size() == 4,
                  "rank", x->dtype == weight->dtype && x->dtype == y->dtype, "dtypes differ");
    if (broken.empty()) {
      const auto out = [&](std::size_t axis) {
        return (x->dims[axis] + 2 * padding->values[axis - 2] - weight->dims[axis]) / stride->values[axis - 2] + 1;
      };
      broken = rule(x->dims[1] == weight->dims[1] && y->dims == Dims{x->dims[0], weight->dims[0], out(2), out(3)},
                    "shapes do not fit");
    }
  }
  if (!broken.empty()) return plan("aclnnConvolution", workspace_bytes, executor, {}, broken, {});
  return plan("aclnnConvolution", workspace_bytes, executor,
              {in(x, "input"), in(weight, "weight"), optional_in(bias, "bias"), dense(y, "output")}, broken,
              [x = view_of(x), weight = view_of(weight), has_bias = bias != nullptr, bias = view_of(bias),
               y = view_of(y), stride = stride->values, padding = padding->values] {
                const std::vector<float> source = product_operand(x);
                const std::vector<float> filter = product_operand(weight);
                const std::vector<float> more = has_bias ? bias.floats() : std::vector<float>();
                std::vector<float> result(static_cast<std::size_t>(y.elements()));
                const std::int64_t channels = x.dims[1];
                const std::int64_t kernel_rows = weight.dims[2];
                const std::int64_t kernel_columns = weight.dims[3];
                const std::int64_t pixels = y.dims[2] * y.dims[3];
                const std::int64_t taps = channels * kernel_rows * kernel_columns;
                std::vector<float> patches(static_cast<std::size_t>(taps * pixels));
                for (std::int64_t b = 0; b < x.dims[0]; ++b) {
                  std::size_t at = 0;
                  for (std::int64_t c = 0; c < channels; ++c) {
                    for (std::int64_t r = 0; r < kernel_rows; ++r) {
                      for (std::int64_t s = 0; s < kernel_columns; ++s) {
                        for (std::int64_t i = 0; i < y.dims[2]; ++i) {
                          for (std::int64_t j = 0; j < y.dims[3]; ++j) {
                            const std::int64_t row = i * stride[0] + r - padding[0];
                            const std::int64_t column = j * stride[1] + s - padding[1];
                            const bool inside = row >= 0 && row < x.dims[2] && column >= 0 && column < x.dims[3];
                            patches[at++] = inside ? source[static_cast<std::size_t>(
                                                         ((b * channels + c) * x.dims[2] + row) * x.dims[3] + column)]
                                                   : 0;
                          }
                        }
                      }
                    }
                  }
                  float* const target = result.data() + b * y.dims[1] * pixels;
                  multiply_matrices(filter.data(), patches.data(), target, y.dims[1], taps, pixels);
                  for (std::int64_t c = 0; has_bias && c < y.dims[1]; ++c) {
                    for (std::int64_t p = 0; p < pixels; ++p)
                      target[c * pixels + p] += more[static_cast<std::size_t>(c)];
                  }
                }
                y.store(result);
              });
}

}  // extern "C"

SECOND_PHASE(aclnnConvolution)
