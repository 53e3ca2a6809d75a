// What this machine could do at best: the ceiling that benchmarks quote shares of.
#pragma once

namespace rondo::cpu {

/// GFLOP/s of float32 multiply-adds that touch no memory, on `threads` threads, at the CPU level in use.
double measure_float32_peak(int threads);

}  // namespace rondo::cpu
