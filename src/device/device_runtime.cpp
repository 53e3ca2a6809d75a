#include "device/device_runtime.h"

#include <fmt/format.h>

#include "device/device_communicator.h"
#include "rondo/error.h"

namespace rondo {

void DeviceStream::begin_recording() { throw DeviceError("device: its streams record no work"); }

std::unique_ptr<RecordedWork> DeviceStream::end_recording() { return nullptr; }

std::optional<std::string> DeviceRuntime::refuse_recording() const { return "its streams record no work"; }

std::optional<std::string> DeviceRuntime::refuse_messages() const { return "has no engine for messages between ranks"; }

std::string DeviceRuntime::make_meeting_point() {
  throw Unsupported(fmt::format("{}: {}", to_string(info().device), refuse_messages().value_or("")));
}

std::unique_ptr<DeviceCommunicator> DeviceRuntime::join(const std::string& /*meeting_point*/, int /*rank*/,
                                                        int /*ranks*/) {
  throw Unsupported(fmt::format("{}: {}", to_string(info().device), refuse_messages().value_or("")));
}

}  // namespace rondo
