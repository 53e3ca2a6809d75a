// What a plug-in brings for one kind of device.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_kernel.h"
#include "backends/kernel.h"
#include "device/device_runtime.h"

namespace rondo {

/// Something that was found, or what is missing: a line of `rondo doctor`.
struct ComponentVersion {
  std::string component;  // "driver", "cuDNN"
  std::string version;    // empty: not found
  std::string note = {};  // what to install, where it was found
};

class ExecutionDevice;

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;

  virtual DeviceKind kind() const = 0;
  /// Driver and libraries.
  virtual std::vector<ComponentVersion> versions() const = 0;
  /// How many devices there are now. Throws DeviceError where that cannot be told: no driver, one that is too old.
  virtual int device_count() const = 0;
  /// Throws DeviceError.
  virtual std::shared_ptr<DeviceRuntime> open(int index) const = 0;
  /// From the device to the device in the stream's order, of one shape and dtype, any strides; those of `from` may be
  /// 0.
  virtual void copy(const Tensor& from, const Tensor& to, const ExecutionDevice& device,
                    DeviceStream& stream) const = 0;
  /// Best first for each operator; without those that every device has alike (generic_kernels()).
  virtual std::span<const KernelEntry> kernels() const = 0;
  /// Best first.
  virtual std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels() const = 0;
};

}  // namespace rondo
