#include "backends/cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/peak.cpp"
#include <hwy/foreach_target.h>
// foreach_target must come before everything that is compiled once a target
#include "backends/cpu/flash_bf16.h"
#include "backends/cpu/simd-inl.h"
#include "core/cpu_level.h"
#include "core/threads.h"
#include "rondo/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace rondo::cpu::HWY_NAMESPACE {

/// `rounds` of 12 independent multiply-adds: enough to hide their latency, few enough for 16 registers. Returns the
/// operations done.
double MultiplyAdds(std::int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  constexpr int kChains = 12;
  hn::Vec<decltype(d)> sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = hn::Set(d, static_cast<float>(c));
  const auto factor = hn::Set(d, 0.999F);
  const auto added = hn::Set(d, 1e-5F);
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) sum = hn::MulAdd(sum, factor, added);
  }
  auto total = hn::Zero(d);
  for (const auto& sum : sums) total = hn::Add(total, sum);
  *sink = hn::GetLane(hn::SumOfLanes(d, total));
  return static_cast<double>(rounds) * kChains * 2.0 * static_cast<double>(hn::Lanes(d));
}

float SumFloats(const float* values, std::int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  for (std::int64_t i = 0; i + 2 * lanes <= count; i += 2 * lanes) {
    s0 = hn::Add(s0, hn::LoadU(d, values + i));
    s1 = hn::Add(s1, hn::LoadU(d, values + i + lanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
}

}  // namespace rondo::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rondo::cpu {

HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(SumFloats);

namespace {

/// GFLOP/s of the best of five attempts at `work(rounds)`, which returns the operations done, on every thread.
template <typename Work>
double measure(int threads, std::int64_t rounds, const Work& work) {
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    double operations = 0;
    const auto start = std::chrono::steady_clock::now();
    parallel_items(threads, threads, [&](std::int64_t item, int /*worker*/) {
      const double done = work(rounds);
      if (item == 0) operations = done * threads;
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, operations / elapsed.count() * 1e-9);
  }
  return best;
}

double multiply_adds(std::int64_t rounds) {
  float sink = 0;
  return HWY_DYNAMIC_DISPATCH(MultiplyAdds)(rounds, &sink);
}

}  // namespace

// Rounds for some tens of milliseconds.
double measure_peak(DType dtype, int threads) {
  if (dtype == DType::bf16 && has_amx()) return measure(threads, 500'000, amx_products);
  if (dtype == DType::bf16 && has_native_bf16()) return measure(threads, 1'000'000, bf16_dot_products);
  return measure(threads, 2'000'000, multiply_adds);
}

double measure_read_bandwidth(int threads) {
  constexpr std::int64_t kFloats = std::int64_t{32} << 20;  // 128 MiB: more than caches hold
  Tensor values = Tensor::empty({kFloats}, DType::f32);
  std::fill_n(values.as<float>(), kFloats, 1.0F);  // untouched pages would all be the same one
  std::vector<float> sums(static_cast<std::size_t>(threads));
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    parallel_items(threads, threads, [&](std::int64_t part, int /*worker*/) {
      const std::int64_t count = kFloats / threads;
      sums[static_cast<std::size_t>(part)] = HWY_DYNAMIC_DISPATCH(SumFloats)(values.as<float>() + part * count, count);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(values.bytes()) / elapsed.count() * 1e-9);
  }
  return best;
}

}  // namespace rondo::cpu
#endif
