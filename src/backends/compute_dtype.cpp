#include "backends/compute_dtype.h"

#include <fmt/format.h>

#include "core/cpu_level.h"
#include "core/log.h"
#include "rondo/error.h"

namespace rondo {

DType resolve_compute_dtype(std::optional<DType> wanted, const ExecutionDevice* device) {
  const bool native_bf16 = device == nullptr ? has_native_bf16() : device->runtime().has_bf16();
  if (device != nullptr && !device->runtime().keeps_f32() && (!wanted || *wanted == DType::f32)) {
    log(LogLevel::warning, "dtype: {} rounds products of float32 to float16: what exceeds 65504 is lost",
        device->runtime().info().name);
  }
  if (!wanted) return native_bf16 ? DType::bf16 : DType::f32;
  if (*wanted != DType::f32 && *wanted != DType::bf16) {
    throw InvalidArgument(
        fmt::format("dtype: {} is given; allowed are auto, float32 and bfloat16", dtype_name(*wanted)));
  }
  if (*wanted == DType::bf16 && !native_bf16) {
    const std::string where = device == nullptr
                                  ? fmt::format("at CPU level {} there are no bfloat16 products (avx512_bf16 has them)",
                                                cpu_level_name(cpu_level()))
                                  : fmt::format("{} has no bfloat16", device->runtime().info().name);
    throw Unsupported(fmt::format("dtype: bfloat16 is given, but {}; use float32", where));
  }
  return *wanted;
}

}  // namespace rondo
