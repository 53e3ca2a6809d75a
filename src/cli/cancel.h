// Ctrl-C.
#pragma once

#include <atomic>

namespace rondo::cli {

/// From now on SIGINT and SIGTERM set the returned flag; a second one ends the process at once.
const std::atomic<bool>& cancel_on_interrupt();

}  // namespace rondo::cli
