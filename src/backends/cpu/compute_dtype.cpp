#include "backends/cpu/compute_dtype.h"

#include <fmt/format.h>

#include "core/cpu_level.h"
#include "rondo/error.h"

namespace rondo {

DType resolve_compute_dtype(std::optional<DType> wanted) {
  if (!wanted) return has_native_bf16() ? DType::bf16 : DType::f32;
  if (*wanted != DType::f32 && *wanted != DType::bf16) {
    throw InvalidArgument(
        fmt::format("dtype: {} is given; allowed are auto, float32 and bfloat16", dtype_name(*wanted)));
  }
  if (*wanted == DType::bf16 && !has_native_bf16()) {
    throw Unsupported(
        fmt::format("dtype: bfloat16 is given, but at CPU level {} there are no bfloat16 products (avx512_bf16 has "
                    "them); use float32",
                    cpu_level_name(cpu_level())));
  }
  return *wanted;
}

}  // namespace rondo
