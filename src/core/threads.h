// One thread runtime: OpenMP. How many threads a run takes, and the only parallel loop that kernels use.
#pragma once

#include <cstdint>
#include <functional>

namespace rondo {

/// Physical cores inside the affinity mask and the cgroup's CPU quota; RONDO_THREADS overrides. At least 1.
/// Throws InvalidArgument when RONDO_THREADS is no positive number.
int default_threads();

/// Sets the calling thread's OpenMP team size and puts the old one back. oneDNN reads it when a primitive is made and
/// when it runs; the caller's other threads never see the change.
class ThreadTeamScope {
 public:
  explicit ThreadTeamScope(int threads);
  ~ThreadTeamScope();
  ThreadTeamScope(const ThreadTeamScope&) = delete;
  ThreadTeamScope& operator=(const ThreadTeamScope&) = delete;

 private:
  int previous_;
};

/// Calls body(begin, end) on disjoint ranges that cover [0, count), in at most `threads` ranges of at least `grain`.
/// The split depends on the arguments only, so results are the same from run to run. `body` must not throw.
void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body);

/// Calls body(index, worker) for every index in [0, count); a worker takes the next index when it is done with one, so
/// that unequal items, or a core that somebody else uses too, cost little. Which worker gets an index is not fixed:
/// results must not depend on it.
void parallel_items(int threads, std::int64_t count, const std::function<void(std::int64_t, int)>& body);

}  // namespace rondo
