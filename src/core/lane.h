// A host thread that runs one task at a time beside its owner's, and lives as long as it: OpenMP keeps a team of
// threads for each host thread, which a new thread would have to make anew.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace rondo {

class Lane {
 public:
  Lane();
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  /// Starts a task; the last one must have been waited for.
  void start(std::function<void()> task);
  /// Waits for the task and throws what it threw.
  void wait();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> task_;  // set while there is one to run or running
  std::exception_ptr error_;
  bool ends_ = false;
  std::thread thread_;  // last: it uses the others
};

/// Runs `here` on this thread and `there` on the lane; returns when both are done, whatever either throws.
void run_beside(Lane& lane, const std::function<void()>& here, std::function<void()> there);

}  // namespace rondo
