#include "core/cpu_level.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <oneapi/dnnl/dnnl.hpp>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/env.h"
#include "core/log.h"
#include "core/simd_targets.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array<std::string_view, 6> kNames{"baseline",    "avx2",        "avx512",
                                                 "avx512_vnni", "avx512_bf16", "avx512_amx"};

CpuLevel parse_level(const std::string& text) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (text == kNames[i]) return static_cast<CpuLevel>(i);
  }
  throw InvalidArgument(
      fmt::format("RONDO_CPU_LEVEL: '{}' is not known; allowed are {}", text, fmt::join(kNames, ", ")));
}

void cap_onednn(CpuLevel level) {
  using dnnl::cpu_isa;
  constexpr std::array kIsa{cpu_isa::sse41, cpu_isa::avx2, cpu_isa::avx512_core, cpu_isa::avx512_core_vnni,
                            cpu_isa::avx512_core_bf16};
  // At the top of the ladder oneDNN is left alone: it may know instructions newer than ours.
  if (level == CpuLevel::avx512_amx || level == detected_cpu_level()) return;
  if (dnnl::set_max_cpu_isa(kIsa[static_cast<std::size_t>(level)]) != dnnl::status::success) {
    log(LogLevel::warning, "onednn: was used before RONDO_CPU_LEVEL was read; it keeps its own instruction set");
  }
}

CpuLevel choose_level() {
  const CpuLevel detected = detected_cpu_level();
  const auto wanted = env_value("RONDO_CPU_LEVEL");
  const CpuLevel level = wanted ? std::min(parse_level(*wanted), detected) : detected;
  if (wanted && parse_level(*wanted) > detected) {
    log(LogLevel::warning, "RONDO_CPU_LEVEL: this CPU has no {}; using {}", *wanted, cpu_level_name(level));
  }
  cap_simd_targets(level);
  cap_onednn(level);
  return level;
}

}  // namespace

std::string_view cpu_level_name(CpuLevel level) { return kNames[static_cast<std::size_t>(level)]; }

CpuLevel detected_cpu_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuLevel::baseline;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return CpuLevel::avx2;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return CpuLevel::avx512;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx);
  const bool bf16 = (eax & (1U << 5)) != 0;
  if (!bf16) return CpuLevel::avx512_vnni;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  const bool amx = (edx & (1U << 22)) != 0 && (edx & (1U << 24)) != 0 && (edx & (1U << 25)) != 0;
  return amx ? CpuLevel::avx512_amx : CpuLevel::avx512_bf16;
#else
  return CpuLevel::baseline;
#endif
}

CpuLevel cpu_level() {
  static const CpuLevel level = choose_level();
  return level;
}

bool has_native_bf16() { return cpu_level() >= CpuLevel::avx512_bf16; }

std::string cpu_model_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      const std::size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "unknown CPU";
}

}  // namespace rondo
