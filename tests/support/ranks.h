// Threads as ranks.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace rondo::test {

/// Runs `body` once a rank, each on a thread of its own; throws what the first of them threw, after all have ended.
void run_ranks(int ranks, const std::function<void(Communicator& world)>& body);

}  // namespace rondo::test
