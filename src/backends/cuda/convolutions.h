// Convolutions of channels-last pictures, by the library that has them: cuDNN (in tests without a GPU, plain loops).
#pragma once

#include <memory>
#include <string>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/conv2d.h"

namespace rondo::cuda {

struct ConvolutionShape {
  Shape x;       // [B, H, W, C]
  Shape weight;  // [O, C, Kh, Kw], in memory [O, Kh, Kw, C]
  Shape y;       // [B, H', W', O]
  std::int64_t stride;
  Conv2dOp::Padding padding;
  DType dtype;  // of all operands
  bool has_bias;
};

/// Immutable: may run on several threads.
class Convolution {
 public:
  virtual ~Convolution() = default;
  /// Operands are dense. `bias` is undefined where there is none.
  virtual void run(const CudaRun& run, const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y) const = 0;
};

/// Why there are none in this process; empty where there are.
const std::string& convolutions_missing();
/// For the calling thread's device.
std::unique_ptr<const Convolution> make_convolution(const ConvolutionShape& shape);

}  // namespace rondo::cuda
