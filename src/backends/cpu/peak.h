// What this machine could do at best: the ceiling that benchmarks quote shares of.
#pragma once

#include "rondo/dtype.h"

namespace rondo::cpu {

/// GFLOP/s of products that touch no memory, on `threads` threads, at the CPU level in use: of bfloat16 where the CPU
/// multiplies it natively and `dtype` is that, else float32 multiply-adds.
double measure_peak(DType dtype, int threads);

/// GB/s at which `threads` threads read memory that no cache holds.
double measure_read_bandwidth(int threads);

}  // namespace rondo::cpu
