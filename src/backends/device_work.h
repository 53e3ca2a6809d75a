// A stream of work on a device, with the memory that only this work uses.
#pragma once

#include <memory>

#include "backends/execution_device.h"

namespace rondo {

/// Belongs to one thread at a time.
class DeviceWork {
 public:
  explicit DeviceWork(std::shared_ptr<const ExecutionDevice> device);
  /// Waits for what is under way, and logs what it failed with.
  ~DeviceWork();
  DeviceWork(const DeviceWork&) = delete;
  DeviceWork& operator=(const DeviceWork&) = delete;

  const ExecutionDevice& device() const { return *device_; }
  DeviceStream& stream() const { return *stream_; }
  /// Waits; throws what any of the work failed with.
  void finish() { stream_->synchronize(); }

 private:
  std::shared_ptr<const ExecutionDevice> device_;
  std::unique_ptr<DeviceStream> stream_;
};

}  // namespace rondo
