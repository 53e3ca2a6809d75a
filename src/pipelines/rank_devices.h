// Several ranks and their devices: which takes which, and whether they exchange messages on them.
#pragma once

#include <string>
#include <vector>

#include "graph/plan.h"
#include "parallel/communicator.h"

namespace rondo {

/// The name of every rank's host. Collective.
std::vector<std::string> hosts_of_ranks(Communicator& world);

/// What tells the memory that each rank's model lies in from others': a host's, or a device's of a host. `device` is
/// this rank's, null for the CPU. Collective.
std::vector<std::string> memories_of_ranks(Communicator& world, const ExecutionDevice* device);

/// Which of the ranks on its host a rank is.
int place_on_host(const std::vector<std::string>& hosts, int rank);

/// Why the ranks exchange nothing on their devices, the same on all of them; empty: they do, or they run on the CPU.
/// Collective.
std::string refuse_messages(Communicator& world, const ExecutionDevice* device);

/// "messages: between devices (ascend:0, ascend:1)", or why not; empty where this rank runs on the CPU. Collective.
std::string describe_messages(Communicator& world, const PlanTarget& target);

}  // namespace rondo
