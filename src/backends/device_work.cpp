#include "backends/device_work.h"

#include "core/log.h"

namespace rondo {

DeviceWork::DeviceWork(std::shared_ptr<const ExecutionDevice> device)
    : device_(std::move(device)), stream_(device_->runtime().make_stream()) {}

DeviceWork::~DeviceWork() {
  try {
    stream_->synchronize();  // what threw may have left work behind
  } catch (const std::exception& error) {
    log(LogLevel::info, "{}", error.what());  // whoever asked for the work was told
  }
  device_->memory().release_cached(*stream_);
}

}  // namespace rondo
