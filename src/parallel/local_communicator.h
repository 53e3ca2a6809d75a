// Threads of one process as ranks: for tests, and for several ranks in one process.
#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace rondo {

/// `ranks` communicators that know each other; each belongs to one thread.
std::vector<std::unique_ptr<Communicator>> local_communicators(int ranks);

}  // namespace rondo
