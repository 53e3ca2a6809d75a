#include "parallel/collective_run.h"

#include <fmt/format.h>

#include "rondo/error.h"

namespace rondo {
namespace {

/// A range of elements, as bytes.
template <typename Byte>
std::span<Byte> part(std::span<Byte> bytes, const ElementRange& range, std::size_t element_bytes) {
  return bytes.subspan(static_cast<std::size_t>(range.begin) * element_bytes,
                       static_cast<std::size_t>(range.end - range.begin) * element_bytes);
}

std::vector<DeviceMessage> device_messages(std::span<const ExchangePlan::Message> messages, std::span<std::byte> memory,
                                           std::size_t element_bytes) {
  std::vector<DeviceMessage> result;
  for (const ExchangePlan::Message& m : messages) {
    const std::span<std::byte> bytes = part(memory, m.range, element_bytes);
    if (!bytes.empty()) result.push_back({m.peer, bytes.data(), bytes.size()});
  }
  return result;
}

}  // namespace

void CollectiveRun::start(const ExchangePlan& plan, std::span<const std::byte> input, std::span<std::byte> output,
                          std::size_t element_bytes) {
  std::vector<Outgoing> sends;
  for (const ExchangePlan::Message& m : plan.sends) sends.push_back({m.peer, part(input, m.range, element_bytes)});
  std::vector<Incoming> receives;
  for (const ExchangePlan::Message& m : plan.receives)
    receives.push_back({m.peer, part(output, m.range, element_bytes)});
  if (under_way_.contains(plan.slot)) throw Error(fmt::format("exchange: slot {} is under way already", plan.slot));
  under_way_[plan.slot] = sequence_.start(sends, receives, plan.slot);
}

void CollectiveRun::wait(int slot) {
  const auto found = under_way_.find(slot);
  if (found == under_way_.end()) throw Error(fmt::format("wait: no exchange of slot {} is under way", slot));
  found->second->wait();
  under_way_.erase(found);
}

DeviceMessages& CollectiveRun::on_device() const {
  if (on_device_ == nullptr) throw Error("exchange: this run has no messages between devices");
  return *on_device_;
}

void CollectiveRun::start_on_device(const ExchangePlan& plan, std::span<std::byte> input, std::span<std::byte> output,
                                    std::size_t element_bytes, DeviceRuntime& runtime, DeviceStream& work) {
  on_device().start(plan.slot, sequence_.between_devices(runtime), device_messages(plan.sends, input, element_bytes),
                    device_messages(plan.receives, output, element_bytes), work);
}

void CollectiveRun::wait_on_device(int slot, DeviceStream& work) { on_device().wait(slot, work); }

}  // namespace rondo
