// What instruction sets this CPU has, as one ladder of levels. Kernels and oneDNN are capped by it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rondo {

/// Each level includes those before it; avx512_bf16 includes VNNI, avx512_amx includes both.
enum class CpuLevel : std::uint8_t { baseline, avx2, avx512, avx512_vnni, avx512_bf16, avx512_amx };

std::string_view cpu_level_name(CpuLevel level);

/// What the CPU (and the operating system) can do.
CpuLevel detected_cpu_level();

/// The level in use: the detected one, capped by RONDO_CPU_LEVEL. Read once; the first call also caps Highway and
/// oneDNN. Throws InvalidArgument when the variable holds no level's name.
CpuLevel cpu_level();

/// True where bfloat16 products run on the CPU's own instructions.
bool has_native_bf16();

/// "Intel(R) Xeon(R) Processor"
std::string cpu_model_name();

}  // namespace rondo
