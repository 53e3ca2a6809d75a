// The thread that owns MPI: it makes every call, moves messages on while others compute, and watches whether ranks
// live. MPI itself moves large messages only inside its calls, so that without this thread nothing would overlap.
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace rondo {

class MpiEngine {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// Requests that MPI works on; done when all are.
  struct Operation {
    std::vector<MPI_Request> requests;
    bool done = false;  // under the engine's mutex
  };

  explicit MpiEngine(Milliseconds rank_timeout);
  /// Without finish() the other ranks are told that this one failed.
  ~MpiEngine();
  MpiEngine(const MpiEngine&) = delete;
  MpiEngine& operator=(const MpiEngine&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// Calls `post` on the engine's thread; it makes MPI calls and adds the requests that are under way.
  std::shared_ptr<Operation> submit(std::function<void(std::vector<MPI_Request>&)> post);
  /// Throws CommunicationError when a rank failed or the timeout passed.
  void wait(const Operation& operation, std::optional<Milliseconds> timeout);
  /// Waits, whatever happens, until MPI no longer touches the operation's memory, or the run has failed.
  void abandon(const Operation& operation);
  void fail(const std::string& reason);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  struct Submission {
    std::function<void(std::vector<MPI_Request>&)> post;
    std::shared_ptr<Operation> operation;
  };

  void loop();
  void initialize();
  void exchange_names();
  /// Posts what was submitted and tests what is under way; true when something moved.
  bool progress();
  void beat();
  void listen();
  void give_up(const std::string& reason, bool tell);
  void rest(Clock::duration idle);
  bool failed() const { return !failure_.empty(); }

  const Milliseconds rank_timeout_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<std::string> names_;  // "rank 1 (pid 42 on host)"

  std::mutex mutex_;
  std::condition_variable submitted_;
  std::condition_variable changed_;
  std::deque<Submission> submissions_;
  std::string failure_;
  std::string own_failure_;  // to be told
  bool ready_ = false;
  bool ends_ = false;
  bool finished_ = false;

  // Of the engine's thread alone.
  std::list<std::shared_ptr<Operation>> active_;
  MPI_Comm control_ = MPI_COMM_NULL;
  MPI_Request heard_request_ = MPI_REQUEST_NULL;
  MPI_Request notice_request_ = MPI_REQUEST_NULL;
  char heard_ = 0;
  std::vector<char> notice_;
  std::list<MPI_Request> beats_;
  Clock::time_point last_beat_;
  Clock::time_point last_heard_;
  std::optional<Clock::time_point> failed_at_;

  std::thread thread_;  // last: it uses the others
};

}  // namespace rondo
