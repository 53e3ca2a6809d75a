#include "parallel/mpi.h"
#include "rondo/error.h"

namespace rondo {

std::unique_ptr<MpiWorld> join_mpi(std::chrono::milliseconds /*rank_timeout*/) {
  throw Unsupported(
      "mpi: this build has no MPI; install libopenmpi-dev and openmpi-bin (Debian's names) and build again with "
      "-D RONDO_MPI=ON");
}

}  // namespace rondo
