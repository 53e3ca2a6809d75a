#include "parallel/device_messages.h"

#include <fmt/format.h>

#include "core/log.h"
#include "rondo/error.h"

namespace rondo {

DeviceMessages::DeviceMessages(DeviceRuntime& runtime) : runtime_(runtime), stream_(runtime.make_stream()) {}

DeviceMessages::~DeviceMessages() {
  try {
    stream_->synchronize();  // what threw may have left messages behind
  } catch (const std::exception& error) {
    log(LogLevel::info, "{}", error.what());  // whoever sent them was told
  }
}

void DeviceMessages::start(int slot, DeviceCommunicator& peers, std::span<const DeviceMessage> sends,
                           std::span<const DeviceMessage> receives, DeviceStream& work) {
  Slot& events = slots_[slot];
  if (events.ready == nullptr) events = {runtime_.make_event(), runtime_.make_event()};
  events.ready->record(work);
  events.ready->hold_back(*stream_);
  peers.exchange(sends, receives, *stream_);
  events.done->record(*stream_);
}

void DeviceMessages::wait(int slot, DeviceStream& work) {
  const auto found = slots_.find(slot);
  if (found == slots_.end()) throw Error(fmt::format("wait: no exchange of slot {} was started", slot));
  found->second.done->hold_back(work);
}

}  // namespace rondo
