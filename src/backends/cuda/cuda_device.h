// One GPU: memory, events and copies by the CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "device/device_runtime.h"

namespace rondo::cuda {

/// Throws DeviceError, with the call and CUDA's own words, unless `status` is success.
void check(cudaError_t status, const char* call, int device);
/// The same where nobody can be told but the log.
void note(cudaError_t status, const char* call, int device) noexcept;

class CudaRuntime final : public DeviceRuntime, public std::enable_shared_from_this<CudaRuntime> {
 public:
  explicit CudaRuntime(int index);

  int index() const { return index_; }
  /// Makes the device the calling thread's.
  void use() const { check(cudaSetDevice(index_), "cudaSetDevice", index_); }
  /// Compute capability, such as 90 for 9.0.
  int capability() const { return capability_; }

  DeviceInfo info() const override;
  std::string physical_id() const override;  // its place on the PCI bus
  bool has_bf16() const override { return capability_ >= 80; }
  bool keeps_f32() const override { return true; }
  void* allocate(std::size_t bytes) override;
  void release(void* memory) noexcept override;
  std::shared_ptr<void> allocate_pinned(std::size_t bytes) override;
  void synchronize() override;
  std::unique_ptr<DeviceStream> make_stream() override;
  std::unique_ptr<DeviceEvent> make_event() override;
  void copy(const RowCopy& rows, CopyKind kind, DeviceStream& stream) override;
  std::optional<std::string> refuse_recording() const override { return std::nullopt; }
  std::optional<std::string> refuse_messages() const override;
  std::string make_meeting_point() override;
  std::unique_ptr<DeviceCommunicator> join(const std::string& meeting_point, int rank, int ranks) override;

 private:
  int index_;
  std::string name_;
  int capability_ = 0;
};

}  // namespace rondo::cuda
