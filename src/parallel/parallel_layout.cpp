#include "parallel/parallel_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "rondo/error.h"

namespace rondo {
namespace {

constexpr int kMostRanks = 1 << 20;

/// Ranks with one colour stand in one group.
struct GroupKind {
  const char* name;
  int degree;
  int (*colour)(const ParallelPlace&, const ParallelDegrees&);
};

std::vector<GroupKind> group_kinds(const ParallelDegrees& degrees) {
  return {
      {"data", degrees.data,
       [](const ParallelPlace& p, const ParallelDegrees& d) { return p.cfg * d.sequence() + p.sequence(d); }},
      {"cfg", degrees.cfg,
       [](const ParallelPlace& p, const ParallelDegrees& d) { return p.data * d.sequence() + p.sequence(d); }},
      {"ring", degrees.ring,
       [](const ParallelPlace& p, const ParallelDegrees& d) {
         return (p.data * d.cfg + p.cfg) * d.ulysses + p.ulysses;
       }},
      {"ulysses", degrees.ulysses,
       [](const ParallelPlace& p, const ParallelDegrees& d) { return (p.data * d.cfg + p.cfg) * d.ring + p.ring; }},
      {"sequence", degrees.sequence(),
       [](const ParallelPlace& p, const ParallelDegrees& d) { return p.data * d.cfg + p.cfg; }},
  };
}

}  // namespace

std::string ParallelDegrees::to_string() const {
  return fmt::format("data {} x cfg {} x ring {} x ulysses {}", data, cfg, ring, ulysses);
}

void check_degrees(const ParallelDegrees& degrees, int world) {
  std::int64_t product = 1;
  for (const auto& [name, degree] :
       {std::pair("data-parallel", degrees.data), std::pair("cfg-parallel", degrees.cfg),
        std::pair("ring-degree", degrees.ring), std::pair("ulysses-degree", degrees.ulysses)}) {
    if (degree < 1 || degree > kMostRanks)
      throw InvalidArgument(fmt::format("{}: {} is given; allowed is 1 to {}", name, degree, kMostRanks));
    product *= degree;
  }
  if (degrees.cfg > 2) {
    throw InvalidArgument(
        fmt::format("cfg-parallel: {} is given; allowed are 1 and 2: guidance has two branches", degrees.cfg));
  }
  if (product != world) {
    throw InvalidArgument(fmt::format("parallel: {} makes {} ranks and the world has {}; both must be equal{}",
                                      degrees.to_string(), product, world,
                                      world == 1 ? fmt::format(" (rondo launch -n {} starts them)", product) : ""));
  }
}

ParallelDegrees parallel_degrees(const ParallelOptions& options, int world) {
  ParallelDegrees degrees;
  degrees.cfg = options.cfg_parallel ? 2 : 1;
  degrees.ring = options.ring_degree;
  degrees.ulysses = options.ulysses_degree.value_or(1);
  // What is wrong in itself is found below.
  const int left = degrees.ring < 1 || degrees.ulysses < 1
                       ? 1
                       : static_cast<int>(world / std::max<std::int64_t>(1, degrees.world()));
  if (options.data_parallel) {
    degrees.data = std::max(1, left);
  } else if (!options.ulysses_degree) {
    degrees.ulysses = std::max(1, left);
  }
  check_degrees(degrees, world);
  return degrees;
}

ParallelPlace place_of(int rank, const ParallelDegrees& degrees) {
  ParallelPlace place;
  place.ulysses = rank % degrees.ulysses;
  rank /= degrees.ulysses;
  place.ring = rank % degrees.ring;
  rank /= degrees.ring;
  place.cfg = rank % degrees.cfg;
  place.data = rank / degrees.cfg;
  return place;
}

ProcessGroups::ProcessGroups(Communicator& world, const ParallelDegrees& degrees) : world_(world), degrees_(degrees) {
  check_degrees(degrees, world.size());
  place_ = place_of(world.rank(), degrees);
  const std::vector<GroupKind> kinds = group_kinds(degrees);
  std::unique_ptr<Communicator>* const groups[]{&data_, &cfg_, &ring_, &ulysses_, &sequence_};
  for (std::size_t i = 0; i < kinds.size(); ++i) *groups[i] = world.split(kinds[i].colour(place_, degrees));
}

std::vector<std::string> ProcessGroups::describe() const {
  std::vector<std::string> lines;
  for (const GroupKind& kind : group_kinds(degrees_)) {
    if (kind.degree == 1) continue;
    std::map<int, std::vector<int>> groups;
    for (int rank = 0; rank < world_.size(); ++rank)
      groups[kind.colour(place_of(rank, degrees_), degrees_)].push_back(rank);
    std::string line = fmt::format("{}:", kind.name);
    for (const auto& [colour, ranks] : groups) line += fmt::format(" [{}]", fmt::join(ranks, ", "));
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace rondo
