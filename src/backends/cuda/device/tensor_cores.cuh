// What a warp asks of tensor cores and of the memory in front of them (PTX ISA: mma.m16n8k16, ldmatrix, cp.async), from
// sm_80 on. Fragments are the instructions' own: a lane holds rows lane / 4 and lane / 4 + 8, columns 2 (lane % 4) and
// the next.
#pragma once

#include "backends/cuda/device/numbers.cuh"

#ifndef __CUDACC__
#include "tensor_cores_emulation.h"
#endif

namespace rondo::cuda {

/// Two numbers in a register, the first in the low half.
template <typename T>
__device__ std::uint32_t pair_of(float low, float high) {
  return from_float<T>(low).bits | static_cast<std::uint32_t>(from_float<T>(high).bits) << 16;
}

#ifdef __CUDACC__

/// Four 8 x 8 matrices from shared memory: lane i says where row i % 8 of matrix i / 8 begins, on 16 bytes.
__device__ inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// sums [16, 8] += a [16, 16] b [16, 8]
template <typename T>
__device__ void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, Bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Begins to copy 16 bytes to shared memory; zeros where there is nothing to copy.
__device__ inline void begin_copy(void* shared, const void* global, bool there) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(there ? 16 : 0)
               : "memory");
}
/// What was begun since the last call is a group.
__device__ inline void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for the thread's groups but the last `others`.
template <int others>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(others) : "memory");
}

#endif

}  // namespace rondo::cuda
