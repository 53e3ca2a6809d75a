// Runs CUDA kernels' own code on the CPU: every thread of a block is a fiber, which hands over at barriers and
// exchanges. What this cannot show: races, what hardware rounds otherwise, speed.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "core/float_formats.h"
#include "emulated_gpu.h"

#define __global__
#define __device__
#define __shared__ static
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x;
  unsigned y;
  unsigned z;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}  // NOLINT(google-explicit-constructor)
};

namespace rondo::cuda {

struct EmulatedThread {
  dim3 thread{0};
  dim3 block{0};
  dim3 block_size{1};
  dim3 grid_size{1};
};
/// The thread that runs now.
extern EmulatedThread emulated;

/// Waits until all threads of the block, or of the warp, that have not ended are here.
void wait_for_block();
void wait_for_warp();
/// What the lanes of a warp hand each other.
double* warp_exchange();
/// Room for a lane of the running warp to hand others more than a number.
constexpr std::size_t kLaneRoom = 32;
std::byte* lane_room(int lane);
void* dynamic_shared();

/// Copies to shared memory that a thread began; a thread must not end before they are done.
struct CopyUnderWay {
  void* to;
  const void* from;  // null: zeros
};
struct ThreadCopies {
  std::vector<CopyUnderWay> open;
  std::deque<std::vector<CopyUnderWay>> groups;
};
ThreadCopies& own_copies();

void run_grid(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& thread);

template <typename... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared, void* stream,
            std::type_identity_t<Params>... args) {
  submit(stream, [=] { run_grid(grid, block, shared, [&] { kernel(args...); }); });
}

template <typename T>
T exchange(T value, int from) {
  double* const slots = warp_exchange();
  slots[emulated.thread.x % 32] = static_cast<double>(value);
  wait_for_warp();
  const T received = static_cast<T>(slots[from]);
  wait_for_warp();
  return received;
}

}  // namespace rondo::cuda

#define threadIdx (rondo::cuda::emulated.thread)
#define blockIdx (rondo::cuda::emulated.block)
#define blockDim (rondo::cuda::emulated.block_size)
#define gridDim (rondo::cuda::emulated.grid_size)

inline void __syncthreads() { rondo::cuda::wait_for_block(); }
template <typename T>
T __shfl_xor_sync(unsigned /*mask*/, T value, int distance) {
  return rondo::cuda::exchange(value, static_cast<int>(threadIdx.x % 32) ^ distance);
}
template <typename T>
T __shfl_sync(unsigned /*mask*/, T value, int lane) {
  return rondo::cuda::exchange(value, lane);
}

inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
inline float __uint_as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline std::uint16_t __ushort_as_half(std::uint16_t bits) { return bits; }
inline std::uint16_t __half_as_ushort(std::uint16_t bits) { return bits; }
inline float __half2float(std::uint16_t bits) { return rondo::f16_to_float(bits); }
inline std::uint16_t __float2half_rn(float x) { return rondo::float_to_f16(x); }
inline std::uint16_t __bfloat16_as_ushort(std::uint16_t bits) { return bits; }
inline std::uint16_t __float2bfloat16_rn(float x) { return rondo::float_to_bf16(x); }
enum __nv_saturation_t { __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };
inline std::uint8_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return rondo::float_to_f8_e4m3(x);
}
struct __half_raw {
  std::uint16_t x;
};
inline __half_raw __nv_cvt_fp8_to_halfraw(std::uint8_t bits, __nv_fp8_interpretation_t) {
  return {rondo::float_to_f16(rondo::f8_e4m3_to_float(bits))};
}
inline std::uint32_t atomicMax(std::uint32_t* place, std::uint32_t value) {
  return std::exchange(*place, std::max(*place, value));
}
inline float __expf(float x) { return std::exp(x); }
using std::isnan;
