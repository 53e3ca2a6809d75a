#include "cli/parallel_flags.h"

#include <fmt/format.h>

#include "cli/run_flags.h"
#include "cli/values.h"
#include "core/env.h"

namespace rondo::cli {
namespace {

constexpr std::int64_t kMostRanks = 1 << 20;

}  // namespace

LaunchedRank launched_rank() {
  for (const auto& [rank, size] :
       {std::pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), std::pair("PMI_RANK", "PMI_SIZE")}) {
    const auto given_rank = env_value(rank);
    const auto given_size = env_value(size);
    if (!given_rank || !given_size) continue;
    return {static_cast<int>(bounded(rank, given_rank, 0, 0, kMostRanks)),
            static_cast<int>(bounded(size, given_size, 1, 1, kMostRanks))};
  }
  return {};
}

std::string rank_prefix() {
  static const std::string prefix = [] {
    try {
      const LaunchedRank launched = launched_rank();
      return launched.size == 1 ? "" : fmt::format("rank {}: ", launched.rank);
    } catch (const UsageError&) {
      return std::string();  // the message that follows says it
    }
  }();
  return prefix;
}

void ParallelFlags::add_to(CLI::App& app) {
  add_value(app, "--ulysses-degree", ulysses_degree_,
            "ranks that exchange tokens for heads (default: what the other degrees leave of the ranks)");
  add_value(app, "--ring-degree", ring_degree_, "ranks between which keys and values travel in a ring (default 1)");
  app.add_flag("--cfg-parallel", cfg_parallel_, "run the two branches of --true-cfg-scale on two halves of the ranks");
  app.add_flag("--data-parallel", data_parallel_, "the ranks that are left draw other pictures");
  add_value(app, "--parallel-text", text_,
            "where the text's tokens are computed: split (each rank its part, the default) or replicated");
  add_value(app, "--ring-wire-dtype", ring_wire_,
            "in which form keys and values travel round the ring: auto (as they are computed, the default), bfloat16 "
            "or int8");
  add_value(app, "--rank-timeout", rank_timeout_,
            "seconds without a sign of life after which a rank is given up (default 8)");
}

void ParallelFlags::apply(PipelineOptions& options) const {
  ParallelOptions& parallel = options.parallel;
  const auto degree = [](const char* flag, const std::optional<std::string>& text) {
    return static_cast<int>(bounded(flag, text, 1, 1, kMostRanks));
  };
  if (ulysses_degree_) parallel.ulysses_degree = degree("--ulysses-degree", ulysses_degree_);
  parallel.ring_degree = degree("--ring-degree", ring_degree_);
  parallel.cfg_parallel = cfg_parallel_;
  parallel.data_parallel = data_parallel_;
  if (text_) parallel.replicate_text = one_of("--parallel-text", *text_, {"split", "replicated"}) == 1;
  if (ring_wire_) {
    parallel.ring_wire = static_cast<RingWire>(one_of("--ring-wire-dtype", *ring_wire_, {"auto", "bfloat16", "int8"}));
    if (parallel.ring_wire != RingWire::as_computed && parallel.ring_degree == 1)
      throw UsageError("--ring-wire-dtype: is given without --ring-degree: nothing travels");
  }
  const double seconds = rank_timeout_ ? parse_number("--rank-timeout", *rank_timeout_) : 8;
  if (!(seconds >= 1 && seconds <= 86400))
    throw UsageError(fmt::format("--rank-timeout: {} is given; allowed is 1 to 86400 seconds", seconds));
  if (launched_rank().size == 1) return;
  options.world = ParallelWorld::join_mpi(std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000)));
}

}  // namespace rondo::cli
