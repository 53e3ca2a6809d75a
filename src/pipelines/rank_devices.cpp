#include "pipelines/rank_devices.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "core/device_name.h"

namespace rondo {

namespace {

std::string own_host() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

std::vector<std::string> hosts_of_ranks(Communicator& world) { return world.all_gather(own_host()); }

std::vector<std::string> memories_of_ranks(Communicator& world, const ExecutionDevice* device) {
  std::string own = own_host();
  if (device != nullptr)
    own += fmt::format(" {} {}", device_kind_name(device->device().kind), device->runtime().physical_id());
  return world.all_gather(own);
}

int place_on_host(const std::vector<std::string>& hosts, int rank) {
  const auto own = hosts.begin() + rank;
  return static_cast<int>(std::count(hosts.begin(), own, *own));
}

std::string refuse_messages(Communicator& world, const ExecutionDevice* device) {
  const std::string own = device == nullptr ? "cpu" : to_string(device->device());
  const std::vector<std::string> devices = world.all_gather(own);
  const std::vector<std::string> memories = memories_of_ranks(world, device);
  const auto refusal = device == nullptr ? std::nullopt : device->runtime().refuse_messages();
  const std::vector<std::string> refusals = world.all_gather(refusal.value_or(""));
  const auto on_cpu = std::find(devices.begin(), devices.end(), "cpu");
  if (on_cpu != devices.end()) {
    const bool all = std::all_of(devices.begin(), devices.end(), [](const std::string& name) { return name == "cpu"; });
    return all ? "" : fmt::format("rank {} runs on the CPU", on_cpu - devices.begin());
  }
  std::map<std::string, std::size_t> owners;
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    if (!refusals[rank].empty()) return fmt::format("rank {}: {}", rank, refusals[rank]);
    const auto [owner, is_new] = owners.try_emplace(memories[rank], rank);
    if (!is_new) {
      return fmt::format("ranks {} and {} share {}; messages between devices need one for each rank", owner->second,
                         rank, devices[rank]);
    }
    if (devices[rank].substr(0, devices[rank].find(':')) != devices[0].substr(0, devices[0].find(':')))
      return fmt::format("rank 0 runs on {} and rank {} on {}", devices[0], rank, devices[rank]);
  }
  return "";
}

std::string describe_messages(Communicator& world, const PlanTarget& target) {
  const std::vector<std::string> devices = world.all_gather(to_string(target.where()));
  if (target.device == nullptr || world.size() == 1) return "";
  if (!target.no_messages.empty()) return fmt::format("messages: over the CPU: {}", target.no_messages);
  return fmt::format("messages: between devices ({})", fmt::join(devices, ", "));
}

}  // namespace rondo
