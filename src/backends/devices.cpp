#include "backends/devices.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "backends/plugins/plugin_loader.h"
#include "core/cpu_level.h"
#include "core/device_name.h"
#include "core/env.h"
#include "core/log.h"
#include "core/memory.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// How many devices of the kind are there now, and why there are none.
struct Count {
  int devices = 0;
  std::string reason;
};

Count count_devices(DeviceKind kind) {
  const DeviceBackend* const backend = loaded_plugins().find(kind);
  if (backend == nullptr) return {0, loaded_plugins().reason(kind)};
  try {
    const int devices = backend->device_count();
    return {devices, devices == 0 ? "the driver finds no device" : ""};
  } catch (const Error& error) {
    return {0, error.what()};
  }
}

void require_present(const Device& device, const std::string& source) {
  const Count count = count_devices(device.kind);
  if (device.index < count.devices) return;
  const std::string reason =
      count.devices > 0 ? fmt::format("there are {}: 0 to {}", count.devices, count.devices - 1) : count.reason;
  throw Unsupported(fmt::format("{}: {} is given, but it is not there: {}", source, to_string(device), reason));
}

struct OpenDevices {
  std::mutex mutex;
  std::map<Device, std::weak_ptr<ExecutionDevice>> devices;
};

OpenDevices& open_devices() {
  static OpenDevices instance;
  return instance;
}

}  // namespace

Device find_device(const std::string& text) { return find_device_of_turn(text, 0); }

Device find_device_of_turn(const std::string& text, int turn) {
  const auto from_environment = env_value("RONDO_DEVICE");
  const std::string source = text.empty() && from_environment ? "RONDO_DEVICE" : "device";
  const std::string wanted = text.empty() ? from_environment.value_or("auto") : text;
  if (wanted != "auto") {
    Device device = parse_device(wanted, source);
    if (device.is_cpu()) return device;
    require_present(device, source);
    if (wanted.find(':') == std::string::npos) device.index = turn % std::max(count_devices(device.kind).devices, 1);
    return device;
  }
  for (const DeviceKind kind : {DeviceKind::cuda, DeviceKind::ascend}) {
    if (const int devices = count_devices(kind).devices; devices > 0) return {kind, turn % devices};
  }
  return {};
}

std::shared_ptr<ExecutionDevice> open_device(const Device& device) {
  if (device.is_cpu()) return nullptr;
  OpenDevices& open = open_devices();
  const std::lock_guard lock(open.mutex);
  std::weak_ptr<ExecutionDevice>& known = open.devices[device];
  if (auto shared = known.lock()) return shared;
  require_present(device, "device");
  auto opened = std::make_shared<ExecutionDevice>(device, *loaded_plugins().find(device.kind));
  known = opened;
  return opened;
}

Tensor empty_on(const Device& device, const Shape& shape, DType dtype) {
  const auto opened = open_device(device);
  return opened == nullptr ? Tensor::empty(shape, dtype) : opened->empty(shape, dtype);
}

std::vector<DeviceInfo> available_devices() {
  std::vector<DeviceInfo> devices{{{}, cpu_model_name(), total_memory(), available_memory()}};
  for (const DeviceKind kind : {DeviceKind::ascend, DeviceKind::cuda}) {
    for (int i = 0; i < count_devices(kind).devices; ++i) {
      try {
        devices.push_back(loaded_plugins().find(kind)->open(i)->info());
      } catch (const Error& error) {
        log(LogLevel::warning, "{}", error.what());
      }
    }
  }
  return devices;
}

DeviceMemoryStatistics device_memory_statistics(const Device& device) {
  if (device.is_cpu()) throw InvalidArgument("device: cpu is given; allowed are other devices");
  OpenDevices& open = open_devices();
  const std::lock_guard lock(open.mutex);
  const auto found = open.devices.find(device);
  const auto shared = found == open.devices.end() ? nullptr : found->second.lock();
  return shared == nullptr ? DeviceMemoryStatistics{} : shared->memory().statistics();
}

Tensor Tensor::to(Device device) const {
  const auto source = open_device(device_);
  const auto target = open_device(device);
  if (source == nullptr && target == nullptr) return dense_copy();
  const Tensor host = source == nullptr ? *this : source->download(*this);
  return target == nullptr ? host : target->upload(host);
}

}  // namespace rondo
