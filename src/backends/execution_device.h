// A device other than the CPU that this process works on.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/device_backend.h"
#include "device/caching_allocator.h"

namespace rondo {

/// Shared by all that work on the device; memory goes back to it when the last lets go. Safe to use from several
/// threads.
class ExecutionDevice : public std::enable_shared_from_this<ExecutionDevice> {
 public:
  ExecutionDevice(Device device, const DeviceBackend& backend);

  const Device& device() const { return device_; }
  DeviceRuntime& runtime() const { return *runtime_; }
  CachingAllocator& memory() const { return *memory_; }
  /// The backend's kernels, then what is the same on every device: attention by the registry, copies.
  std::span<const KernelEntry> kernels() const { return kernels_; }

  /// Bytes that can still be asked for.
  std::uint64_t available_memory() const;
  /// Memory of the device, not initialised; used by a stream's work only, where one is given.
  Tensor empty(const Shape& shape, DType dtype, const DeviceStream* stream = nullptr) const;
  /// A dense copy of a CPU tensor on the device, once it is there. Large ones go through two pinned buffers, so that
  /// reading from a mapped file goes on while the copy before is on its way.
  Tensor upload(const Tensor& host) const;
  /// A copy with the strides of the original; what lies between its elements is not copied.
  Tensor upload_strided(const Tensor& host) const;
  /// As DeviceBackend::copy(): between tensors on the device.
  void copy(const Tensor& from, const Tensor& to, DeviceStream& stream) const {
    backend_.copy(from, to, *this, stream);
  }
  /// A dense copy on the CPU.
  Tensor download(const Tensor& tensor) const;

 private:
  Device device_;
  const DeviceBackend& backend_;  // plug-ins stay
  std::shared_ptr<DeviceRuntime> runtime_;
  std::shared_ptr<CachingAllocator> memory_;
  std::vector<KernelEntry> kernels_;
};

}  // namespace rondo
