// One thread runtime: OpenMP. How many threads a run takes, and the only parallel loop that kernels use.
#pragma once

#include <cstdint>
#include <functional>

namespace rondo {

/// Threads of a run whose caller names none: RONDO_THREADS, else the first number of OMP_NUM_THREADS, else the physical
/// cores inside the affinity mask and the cgroup's CPU quota. At least 1. Throws InvalidArgument when RONDO_THREADS is
/// no number from 1 to 1024; an OMP_NUM_THREADS that is none is ignored, as OpenMP ignores it.
int default_threads();

/// How many of `threads` a parallel region of the calling thread gets by OpenMP's rules: fewer under OMP_THREAD_LIMIT
/// and inside the caller's own parallel region. oneDNN shares work among the threads that it asks for and leaves undone
/// what missing ones should have done: every number of threads goes through here before anything is prepared for it. A
/// reduction is logged once as a warning.
int available_threads(int threads);

/// Sets the calling thread's OpenMP team size and puts the old one back. oneDNN reads it when a primitive is made and
/// when it runs; the caller's other threads never see the change.
class ThreadTeamScope {
 public:
  /// Measures, once for a thread and its settings, the team that a region really gets. Throws Error where it is
  /// smaller, and in a process that was forked after threads had started: OpenMP would wait for threads that do not
  /// exist there.
  explicit ThreadTeamScope(int threads);
  ~ThreadTeamScope();
  ThreadTeamScope(const ThreadTeamScope&) = delete;
  ThreadTeamScope& operator=(const ThreadTeamScope&) = delete;

 private:
  int previous_;
  bool was_dynamic_;
};

/// Calls body(begin, end) on disjoint ranges that cover [0, count), in at most `threads` ranges of at least `grain`.
/// The split depends on the arguments only, so results are the same from run to run. `body` must not throw. Throws
/// Error as ThreadTeamScope does in a forked process.
void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body);

/// Calls body(index, worker) for every index in [0, count); a worker takes the next index when it is done with one, so
/// that unequal items, or a core that somebody else uses too, cost little. Which worker gets an index is not fixed:
/// results must not depend on it. Throws Error as parallel_ranges() does.
void parallel_items(int threads, std::int64_t count, const std::function<void(std::int64_t, int)>& body);

}  // namespace rondo
