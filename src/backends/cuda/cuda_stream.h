// A stream of a GPU's, and the graph that its work can be recorded as.
#pragma once

#include "backends/cuda/cuda_device.h"

namespace rondo::cuda {

class CudaStream final : public DeviceStream {
 public:
  explicit CudaStream(const CudaRuntime& runtime);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  void synchronize() override;
  void begin_recording() override;
  std::unique_ptr<RecordedWork> end_recording() override;

  cudaStream_t handle() const { return handle_; }
  const CudaRuntime& runtime() const { return runtime_; }

 private:
  const CudaRuntime& runtime_;  // outlives its streams
  cudaStream_t handle_ = nullptr;
};

}  // namespace rondo::cuda
