#include "parallel/mpi_engine.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/log.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr int kBeatTag = 1;
constexpr int kNoticeTag = 2;
constexpr std::size_t kLongestNotice = 1024;
/// What a failed run gets to end by itself before it is ended.
constexpr auto kGrace = std::chrono::seconds(2);

}  // namespace

MpiEngine::MpiEngine(Milliseconds rank_timeout) : rank_timeout_(rank_timeout), notice_(kLongestNotice) {
  thread_ = std::thread([this] { loop(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_; });
}

MpiEngine::~MpiEngine() {
  bool told = false;
  {
    const std::lock_guard lock(mutex_);
    told = finished_ || failed() || !own_failure_.empty();
  }
  if (!told) fail("it ended early");
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    submitted_.notify_all();
  }
  thread_.join();
}

void MpiEngine::initialize() {
  // Open MPI's default protocol for large messages over TCP reached 0.55 of a link of 1 Gb/s, plain sends 0.9 (four
  // hosts, messages of 1.7 and 6 MB all to all; at 10 Gb/s they are alike). A user's own setting stands.
  setenv("OMPI_MCA_btl_tcp_flags", "1", 0);
  int given = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  MPI_Comm_dup(MPI_COMM_WORLD, &control_);
  exchange_names();
  last_heard_ = last_beat_ = Clock::now();
  if (size_ == 1) return;
  MPI_Irecv(&heard_, 1, MPI_CHAR, (rank_ - 1 + size_) % size_, kBeatTag, control_, &heard_request_);
  MPI_Irecv(notice_.data(), static_cast<int>(kLongestNotice), MPI_CHAR, MPI_ANY_SOURCE, kNoticeTag, control_,
            &notice_request_);
}

void MpiEngine::exchange_names() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  std::array<char, 320> own{};
  fmt::format_to_n(own.data(), own.size() - 1, "rank {} (pid {} on {})", rank_, getpid(), host.data());
  std::vector<char> all(own.size() * static_cast<std::size_t>(size_));
  MPI_Allgather(own.data(), static_cast<int>(own.size()), MPI_CHAR, all.data(), static_cast<int>(own.size()), MPI_CHAR,
                control_);
  for (int r = 0; r < size_; ++r) names_.emplace_back(all.data() + static_cast<std::size_t>(r) * own.size());
}

void MpiEngine::loop() {
  initialize();
  {
    const std::lock_guard lock(mutex_);
    ready_ = true;
    changed_.notify_all();
  }
  auto moved = Clock::now();
  for (auto looked = moved;;) {
    // Once a run has failed MPI is left alone: any of its calls could touch memory that its owners have given back.
    if (!failed_at_ && progress()) moved = Clock::now();
    std::string own_failure;
    bool watches = size_ > 1;
    {
      const std::lock_guard lock(mutex_);
      watches = watches && !finished_;  // from here on ranks end one after the other
      if (ends_ && (failed() || (submissions_.empty() && active_.empty()))) break;
      own_failure = own_failure_;
    }
    // This rank itself was held up (the whole run suspended, say): it knows nothing of the others' silence.
    const auto now = Clock::now();
    if (now - looked > rank_timeout_ / 2) last_heard_ = now;
    looked = now;
    if (watches && !failed_at_) {
      listen();
      beat();
    }
    if (!own_failure.empty() && !failed_at_) give_up(own_failure, true);
    if (failed_at_ && Clock::now() - *failed_at_ > kGrace) {
      log(LogLevel::error, "parallel: this rank does not end by itself; ended: {}", failure_);
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    rest(Clock::now() - moved);
  }
  if (failed_at_) return;  // the launcher ends what is left: MPI could only wait for ranks that are gone
  if (heard_request_ != MPI_REQUEST_NULL) MPI_Cancel(&heard_request_);
  if (notice_request_ != MPI_REQUEST_NULL) MPI_Cancel(&notice_request_);
  MPI_Finalize();
}

bool MpiEngine::progress() {
  std::deque<Submission> fresh;
  {
    const std::lock_guard lock(mutex_);
    fresh.swap(submissions_);
  }
  for (Submission& submission : fresh) {
    submission.post(submission.operation->requests);
    active_.push_back(std::move(submission.operation));
  }
  bool moved = !fresh.empty();
  for (auto it = active_.begin(); it != active_.end();) {
    int done = 0;
    std::vector<MPI_Request>& requests = (*it)->requests;
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done == 0) {
      ++it;
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      (*it)->done = true;
    }
    changed_.notify_all();
    it = active_.erase(it);
    moved = true;
  }
  return moved;
}

/// Each rank is watched by the next one: signs of life cost a message a rank, however many there are.
void MpiEngine::beat() {
  const auto now = Clock::now();
  const auto interval = std::min<Milliseconds>(Milliseconds(500), rank_timeout_ / 8);
  if (now - last_beat_ < interval) return;
  last_beat_ = now;
  static const char alive = 1;
  beats_.remove_if([](MPI_Request& request) {
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  });
  beats_.push_back(MPI_REQUEST_NULL);  // the checker takes the list's elements for one request
  // NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker)
  MPI_Isend(&alive, 1, MPI_CHAR, (rank_ + 1) % size_, kBeatTag, control_, &beats_.back());
}

void MpiEngine::listen() {
  const int previous = (rank_ - 1 + size_) % size_;
  int done = 1;
  while (heard_request_ != MPI_REQUEST_NULL && done != 0) {
    MPI_Test(&heard_request_, &done, MPI_STATUS_IGNORE);
    if (done == 0) break;
    last_heard_ = Clock::now();
    // The last one is done.
    // NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker)
    MPI_Irecv(&heard_, 1, MPI_CHAR, previous, kBeatTag, control_, &heard_request_);
  }
  int noticed = 0;
  MPI_Status status;
  if (notice_request_ != MPI_REQUEST_NULL) MPI_Test(&notice_request_, &noticed, &status);
  if (noticed != 0 && !failed_at_) {
    int length = 0;
    MPI_Get_count(&status, MPI_CHAR, &length);
    give_up(std::string(notice_.data(), static_cast<std::size_t>(length)), false);
  }
  if (!failed_at_ && Clock::now() - last_heard_ > rank_timeout_) {
    give_up(fmt::format("{} gave no sign of life for {:.3g} s", names_[static_cast<std::size_t>(previous)],
                        std::chrono::duration<double>(rank_timeout_).count()),
            true);
  }
}

void MpiEngine::give_up(const std::string& reason, bool tell) {
  failed_at_ = Clock::now();
  if (tell) {
    const auto length = static_cast<int>(std::min(reason.size(), kLongestNotice));
    std::vector<MPI_Request> requests;
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      requests.push_back(MPI_REQUEST_NULL);
      MPI_Isend(reason.data(), length, MPI_CHAR, peer, kNoticeTag, control_, &requests.back());
    }
    // Short messages leave at once; one that does not is to a rank that is gone.
    int sent = 0;
    for (int i = 0; i < 100 && sent == 0; ++i) {
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &sent, MPI_STATUSES_IGNORE);
      std::this_thread::sleep_for(Milliseconds(1));
    }
  }
  const std::lock_guard lock(mutex_);
  failure_ = reason;
  changed_.notify_all();
}

/// Messages are on their way: look again at once, then ever less often, at most a sixteenth of their time apart.
/// Looking costs a core that compute threads may want: with 50 us between looks, four ranks on two cores lost a third
/// of attention's speed to it.
void MpiEngine::rest(Clock::duration idle) {
  constexpr auto kBusy = std::chrono::microseconds(50);
  constexpr auto kMost = std::chrono::microseconds(1000);
  std::unique_lock lock(mutex_);
  if (ends_ && (active_.empty() || failed())) return;
  if (!submissions_.empty() && !failed()) return;
  if (active_.empty() || failed()) {
    submitted_.wait_for(lock, Milliseconds(50));
  } else if (idle < kBusy) {
    lock.unlock();
    std::this_thread::yield();
  } else {
    submitted_.wait_for(lock, std::min<Clock::duration>(idle / 16, kMost));
  }
}

std::shared_ptr<MpiEngine::Operation> MpiEngine::submit(std::function<void(std::vector<MPI_Request>&)> post) {
  auto operation = std::make_shared<Operation>();
  const std::lock_guard lock(mutex_);
  if (failed()) throw CommunicationError(fmt::format("communicator: {}", failure_));
  submissions_.push_back({std::move(post), operation});
  submitted_.notify_all();
  return operation;
}

void MpiEngine::wait(const Operation& operation, std::optional<Milliseconds> timeout) {
  std::unique_lock lock(mutex_);
  const auto settled = [&] { return operation.done || failed(); };
  if (!timeout) {
    changed_.wait(lock, settled);
  } else if (!changed_.wait_for(lock, *timeout, settled)) {
    // MPI cannot take back what it was given, so that the whole run ends with this.
    const std::string reason = fmt::format("rank {} waited {} ms for its peers", rank_, timeout->count());
    lock.unlock();
    fail(reason);
    throw CommunicationError(fmt::format("communicator: {}", reason));
  }
  if (!operation.done) throw CommunicationError(fmt::format("communicator: {}", failure_));
}

void MpiEngine::abandon(const Operation& operation) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return operation.done || failed(); });
}

void MpiEngine::fail(const std::string& reason) {
  std::unique_lock lock(mutex_);
  if (failed() || !own_failure_.empty()) return;
  own_failure_ = fmt::format("{} failed: {}", names_[static_cast<std::size_t>(rank_)], reason);
  submitted_.notify_all();
  changed_.wait(lock, [&] { return failed(); });  // until it is told
}

void MpiEngine::finish() {
  // All ranks are watched until the last one is done.
  const auto last = submit([](std::vector<MPI_Request>& requests) {
    requests.push_back(MPI_REQUEST_NULL);
    MPI_Ibarrier(MPI_COMM_WORLD, &requests.back());
  });
  wait(*last, std::nullopt);
  const std::lock_guard lock(mutex_);
  finished_ = true;
}

}  // namespace rondo
