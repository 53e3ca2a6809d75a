#include "backends/plugins/plugin.h"

namespace rondo {

const char* build_fingerprint() {
  return
#include "fingerprint.inc"
      ;
}

}  // namespace rondo
