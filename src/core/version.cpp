#include "rondo/version.h"

#include <fmt/format.h>

namespace rondo {

std::string version() { return fmt::format("{}.{}.{}", RONDO_VERSION_MAJOR, RONDO_VERSION_MINOR, RONDO_VERSION_PATCH); }

std::string commit() {
  return
#include "commit.inc"
      ;
}

}  // namespace rondo
