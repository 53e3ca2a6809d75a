// MPI as the engine. Built without it, no_mpi.cpp stands in.
#pragma once

#include <chrono>
#include <memory>

#include "parallel/communicator.h"

namespace rondo {

class MpiWorld {
 public:
  virtual ~MpiWorld() = default;
  virtual Communicator& communicator() = 0;
  /// Ends the run in step with all ranks; without it destruction is a failure that others hear of.
  virtual void finish() = 0;
};

/// Joins the ranks that the launcher started; once a process. Ranks send signs of life to each other from a thread of
/// their own: one that sends none for `rank_timeout` is given up, all others throw CommunicationError naming it, and a
/// process that does not end within two seconds is ended. Throws Unsupported when built without MPI.
std::unique_ptr<MpiWorld> join_mpi(std::chrono::milliseconds rank_timeout);

}  // namespace rondo
