// Messages between the devices of several ranks, by the devices' own engine: NCCL, HCCL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "device/device_runtime.h"

namespace rondo {

/// Memory of the rank's device that goes to a peer, or comes from it. Never empty, never to oneself.
struct DeviceMessage {
  int peer;
  std::byte* memory;
  std::size_t bytes;
};

/// A rank's end. Every rank makes the same calls in the same order; its calls come from one thread at a time.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;

  /// "nccl", "hccl"
  virtual std::string engine() const = 0;
  /// All at once, in the stream's order: none waits for another of this rank. Messages of one pair of ranks stand in
  /// the same order on both sides. Throws DeviceError.
  virtual void exchange(std::span<const DeviceMessage> sends, std::span<const DeviceMessage> receives,
                        DeviceStream& stream) = 0;
};

}  // namespace rondo
