// The attention kernels of this build, in order.
#pragma once

#include "attention/attention_registry.h"
#include "attention/attention_tuner.h"
#include "attention/kv_cache_policy.h"
#include "attention/random_attention.h"

namespace rondo {

/// The CPU's kernels from the first call on; plug-ins add theirs.
AttentionRegistry& attention_registry();

/// The operands on their problem's device, with the strides that they have.
RandomAttention on_device(RandomAttention operands);

/// The policy for a transformer of so many layers like this one. Throws InvalidArgument for layers that it does not
/// have; Unsupported, with the reasons, where no kernel can, unless the policy falls back: then it is native, with the
/// reason.
/// `request` says which kernel is named.
KvCachePolicy settle_kv_cache(KvCachePolicy policy, AttentionProblem layer, std::int64_t layers,
                              const AttentionRequest& request);

/// Leaves keys unsmoothed where no kernel, or not the named one, takes the problem with smoothed keys but one does
/// without.
void settle_smoothing(AttentionProblem& problem, const AttentionRequest& request);

/// Chooses among them.
AttentionTuner& attention_tuner();

}  // namespace rondo
