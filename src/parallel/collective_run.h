// What a run of a parallel graph carries: the ranks that share its sequence, and the exchanges that are under way.
#pragma once

#include <map>
#include <memory>

#include "ops/exchange.h"
#include "parallel/communicator.h"
#include "parallel/device_messages.h"

namespace rondo {

class CollectiveRun {
 public:
  /// `on_device` is where exchanges between devices run; null for a run without.
  explicit CollectiveRun(Communicator& sequence, DeviceMessages* on_device = nullptr)
      : sequence_(sequence), on_device_(on_device) {}

  /// Posts the plan's messages; `input` and `output` hold elements of so many bytes. The plan's copies are the
  /// caller's.
  void start(const ExchangePlan& plan, std::span<const std::byte> input, std::span<std::byte> output,
             std::size_t element_bytes);
  /// Returns once the messages of a slot have left and come.
  void wait(int slot);

  /// The same of memory of a device, in the order of a stream of its work.
  void start_on_device(const ExchangePlan& plan, std::span<std::byte> input, std::span<std::byte> output,
                       std::size_t element_bytes, DeviceRuntime& runtime, DeviceStream& work);
  void wait_on_device(int slot, DeviceStream& work);

 private:
  DeviceMessages& on_device() const;

  Communicator& sequence_;
  DeviceMessages* on_device_;
  std::map<int, std::unique_ptr<Exchange>> under_way_;
};

}  // namespace rondo
