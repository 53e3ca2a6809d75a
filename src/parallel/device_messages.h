// Exchanges between devices, beside a session's own work: they run in a stream of their own, which waits for what is
// sent and is waited for by what needs what came. The host waits for neither.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "device/device_communicator.h"

namespace rondo {

/// Of one session; its calls come from one thread at a time.
class DeviceMessages {
 public:
  explicit DeviceMessages(DeviceRuntime& runtime);
  /// Waits for what is under way, and logs what it failed with.
  ~DeviceMessages();
  DeviceMessages(const DeviceMessages&) = delete;
  DeviceMessages& operator=(const DeviceMessages&) = delete;

  /// Begins once the work that `work` has been given is done. A slot has one exchange at a time.
  void start(int slot, DeviceCommunicator& peers, std::span<const DeviceMessage> sends,
             std::span<const DeviceMessage> receives, DeviceStream& work);
  /// What `work` is given from now on waits for the slot's messages.
  void wait(int slot, DeviceStream& work);
  /// The host waits for all messages; throws what they failed with.
  void finish() { stream_->synchronize(); }

 private:
  struct Slot {
    std::unique_ptr<DeviceEvent> ready;
    std::unique_ptr<DeviceEvent> done;
  };

  DeviceRuntime& runtime_;
  std::map<int, Slot> slots_;
  std::unique_ptr<DeviceStream> stream_;  // goes first: it may hold events of the slots
};

}  // namespace rondo
