// What the CPU's kernels check alike.
#pragma once

#include "backends/kernel.h"

namespace rondo::cpu {

/// True for the dtypes that SIMD rows are loaded from and stored to.
inline bool is_simd_dtype(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

/// The refusal that SIMD kernels share: inputs in float32, bfloat16 or float16, all alike, with dense rows.
inline Refusal refuse_unless_simd_rows(const KernelRequest& request, std::size_t data_inputs) {
  for (std::size_t i = 0; i < data_inputs; ++i) {
    const Tensor& input = request.inputs[i].prototype;
    if (!is_simd_dtype(input.dtype())) return "takes float32, bfloat16 and float16 only";
    if (input.dtype() != request.inputs[0].prototype.dtype()) return "takes inputs of one dtype only";
    const std::size_t rank = input.shape().rank();
    if (rank == 0 || (input.strides()[rank - 1] != 1 && input.shape().back() != 1)) return "takes dense rows only";
  }
  return std::nullopt;
}

/// True when a parameter vector (a norm's weight) is dense float32.
inline bool is_float_vector(const Tensor& tensor) { return tensor.dtype() == DType::f32 && tensor.is_dense(); }

}  // namespace rondo::cpu
