#include "core/simd_targets.h"

#include <hwy/targets.h>

namespace rondo {

void cap_simd_targets(CpuLevel level) {
#if HWY_ARCH_X86
  constexpr std::int64_t kAvx512 = HWY_AVX3 | HWY_AVX3_DL;
  if (level == CpuLevel::baseline) {
    hwy::DisableTargets(kAvx512 | HWY_AVX2);
  } else if (level == CpuLevel::avx2) {
    hwy::DisableTargets(kAvx512);
  }
#else
  static_cast<void>(level);
#endif
}

}  // namespace rondo
