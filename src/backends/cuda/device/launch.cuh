// Launches a kernel and says what went wrong.
#pragma once

#include <stdexcept>
#include <string>

#include "backends/cuda/device/numbers.cuh"

namespace rondo::cuda {

#ifdef __CUDACC__

/// What a launch failed with; the host's layer adds the device.
class LaunchError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void check_launch(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw LaunchError(std::string(call) + ": " + cudaGetErrorString(status));
}

template <typename... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared, StreamHandle stream,
            std::type_identity_t<Params>... args) {
  if (grid.x == 0 || grid.y == 0) return;
  constexpr std::size_t kWithoutAsking = 48 * 1024;
  if (shared > kWithoutAsking) {
    check_launch(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
                 "cudaFuncSetAttribute");
  }
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(args...);
  check_launch(cudaGetLastError(), "launch");
}

#endif

}  // namespace rondo::cuda
