// The graph's copies between the CPU and a device.
#include <array>

#include "backends/execution_device.h"
#include "backends/generic_kernels.h"
#include "device/copy_tensor.h"

namespace rondo {
namespace {

class DeviceCopy final : public Kernel {
 public:
  explicit DeviceCopy(DeviceRuntime& runtime) : runtime_(runtime) {}
  void run(const KernelArgs& args) const override {
    copy_tensor(args.inputs[0], args.outputs[0], runtime_, *args.stream);
  }

 private:
  DeviceRuntime& runtime_;  // the session that runs it holds the device
};

constexpr std::array kEntries{KernelEntry{"device_copy", "stream", false,
                                          [](const KernelRequest&) -> Refusal { return std::nullopt; },
                                          [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
                                            return std::make_unique<DeviceCopy>(request.device->runtime());
                                          }}};

}  // namespace

std::span<const KernelEntry> generic_kernels() {
  static const std::vector<KernelEntry> all = [] {
    std::vector<KernelEntry> entries(kEntries.begin(), kEntries.end());
    for (const auto part : {attention_node_kernels(), device_exchange_kernels()})
      entries.insert(entries.end(), part.begin(), part.end());
    return entries;
  }();
  return all;
}

}  // namespace rondo
