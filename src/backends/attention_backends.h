// The attention kernels of this build, in order.
#pragma once

#include "attention/attention_registry.h"
#include "attention/attention_tuner.h"

namespace rondo {

/// The CPU's kernels from the first call on; plug-ins add theirs.
AttentionRegistry& attention_registry();

/// Chooses among them.
AttentionTuner& attention_tuner();

}  // namespace rondo
