#include "pipelines/plan_options.h"

#include <fmt/format.h>

#include "backends/attention_backends.h"
#include "core/threads.h"
#include "rondo/error.h"

namespace rondo {

PlanOptions plan_options(const PipelineOptions& options) {
  constexpr int kMostThreads = 1024;
  PlanOptions plan;
  plan.threads = options.threads.value_or(default_threads());
  if (plan.threads < 1 || plan.threads > kMostThreads) {
    throw InvalidArgument(fmt::format("threads: {} is given; allowed is 1 to {}", plan.threads, kMostThreads));
  }
  plan.passes.without = options.without_passes;
  plan.passes.only_is_set = options.only_passes.has_value();
  plan.passes.only = options.only_passes.value_or(std::vector<std::string>{});
  plan.passes.check();
  plan.attention.backend = options.attention_backend;
  plan.attention.tune = options.tune;
  if (!plan.attention.backend.empty()) attention_registry().find(plan.attention.backend, "the call");
  return plan;
}

}  // namespace rondo
