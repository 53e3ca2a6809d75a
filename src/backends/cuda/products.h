// Products of a linear layer, by the library that has them: cuBLASLt (in tests without a GPU, a plain loop).
#pragma once

#include <memory>

#include "backends/cuda/kernels/cuda_kernel.h"

namespace rondo::cuda {

/// y [rows, outputs] = x [rows, inputs] w^T, with w [outputs, inputs].
struct ProductShape {
  std::int64_t rows;
  std::int64_t inputs;
  std::int64_t outputs;
  /// Of x and w; of s8 y is s32, of f8_e4m3 without scales f32, and neither has a bias.
  DType dtype;
  bool has_bias = false;
  /// Whether the activation (by tanh) is taken before y is rounded.
  bool gelu = false;
  /// Of f8_e4m3: what sums are multiplied by before anything else.
  enum class Scales : std::uint8_t { none, per_tensor, per_row };
  Scales scales = Scales::none;
  /// y's dtype and the bias', where there are scales: bfloat16 or float16.
  DType scaled_dtype = DType::bf16;

  DType result_dtype() const {
    if (dtype == DType::s8) return DType::s32;
    if (dtype != DType::f8_e4m3) return dtype;
    return scales == Scales::none ? DType::f32 : scaled_dtype;
  }
};

/// Dense, on the device. `bias` is undefined where there is none.
struct ProductOperands {
  Tensor x;
  Tensor w;
  Tensor bias;
  Tensor y;
  /// [rows] and [outputs], or one each.
  const float* row_scales = nullptr;
  const float* column_scales = nullptr;
};

/// Immutable: may run on several threads.
class Product {
 public:
  virtual ~Product() = default;
  virtual void run(const CudaRun& run, const ProductOperands& operands) const = 0;
};

/// For the calling thread's device. Null where the library has no algorithm.
std::unique_ptr<const Product> find_product(const ProductShape& shape);

}  // namespace rondo::cuda
