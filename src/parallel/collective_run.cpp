#include "parallel/collective_run.h"

#include <fmt/format.h>

#include <cstring>

#include "rondo/error.h"

namespace rondo {
void CollectiveRun::start(const ExchangePlan& plan, std::span<const std::byte> input, std::span<std::byte> output,
                          std::size_t element_bytes) {
  const auto part = [=](auto bytes, const ElementRange& range) {
    return bytes.subspan(static_cast<std::size_t>(range.begin) * element_bytes,
                         static_cast<std::size_t>(range.end - range.begin) * element_bytes);
  };
  std::vector<Outgoing> sends;
  for (const ExchangePlan::Message& m : plan.sends) sends.push_back({m.peer, part(input, m.range)});
  std::vector<Incoming> receives;
  for (const ExchangePlan::Message& m : plan.receives) receives.push_back({m.peer, part(output, m.range)});
  if (under_way_.contains(plan.slot)) throw Error(fmt::format("exchange: slot {} is under way already", plan.slot));
  under_way_[plan.slot] = sequence_.start(sends, receives, plan.slot);
  for (const ExchangePlan::Copy& copy : plan.copies) {
    const auto bytes = static_cast<std::size_t>(copy.elements) * element_bytes;
    std::memcpy(output.data() + static_cast<std::size_t>(copy.to) * element_bytes,
                input.data() + static_cast<std::size_t>(copy.from) * element_bytes, bytes);
  }
}

void CollectiveRun::wait(int slot) {
  const auto found = under_way_.find(slot);
  if (found == under_way_.end()) throw Error(fmt::format("wait: no exchange of slot {} is under way", slot));
  found->second->wait();
  under_way_.erase(found);
}

}  // namespace rondo
