// What stands behind the public ParallelWorld.
#pragma once

#include "parallel/communicator.h"
#include "rondo/parallel.h"

namespace rondo {

class ParallelWorld::Implementation {
 public:
  virtual ~Implementation() = default;
  virtual Communicator& communicator() = 0;
  virtual void finish() = 0;
};

}  // namespace rondo
