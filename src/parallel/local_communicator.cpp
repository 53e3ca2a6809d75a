#include "parallel/local_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>

#include "rondo/error.h"

namespace rondo {
namespace {

/// What one start() still waits for.
struct Pending {
  int left = 0;
  bool broken = false;
};

struct Letter {
  int from;
  int to;
  int tag;
  std::span<const std::byte> sent;
  std::span<std::byte> received;
  std::shared_ptr<Pending> pending;
};

/// Where the ranks of one communicator meet. Whoever comes second copies, from memory to memory.
class Hub {
 public:
  explicit Hub(int size) : size_(size) {}
  int size() const { return size_; }

  void post(Letter letter, bool sends) {
    std::unique_lock lock(mutex_);
    std::list<Letter>& waiting = sends ? receives_ : sends_;
    const auto match = std::find_if(waiting.begin(), waiting.end(), [&](const Letter& other) {
      return other.from == letter.from && other.to == letter.to && other.tag == letter.tag;
    });
    if (match == waiting.end()) {
      (sends ? sends_ : receives_).push_back(std::move(letter));
      return;
    }
    const Letter other = std::move(*match);
    waiting.erase(match);
    lock.unlock();
    const std::span<const std::byte> source = sends ? letter.sent : other.sent;
    const std::span<std::byte> target = sends ? other.received : letter.received;
    const bool fits = source.size() == target.size();
    if (fits) std::memcpy(target.data(), source.data(), source.size());
    lock.lock();
    --letter.pending->left;
    --other.pending->left;
    letter.pending->broken = letter.pending->broken || !fits;
    other.pending->broken = other.pending->broken || !fits;
    if (!fits && failure_.empty()) {
      failure_ = fmt::format("rank {} sent {} bytes and rank {} expected {}", letter.from, source.size(), letter.to,
                             target.size());
    }
    changed_.notify_all();
  }

  void wait(const Pending& pending, int rank, std::optional<std::chrono::milliseconds> timeout) {
    std::unique_lock lock(mutex_);
    const auto settled = [&] { return pending.left == 0 || !failure_.empty(); };
    if (!timeout) {
      changed_.wait(lock, settled);
    } else if (!changed_.wait_for(lock, *timeout, settled)) {
      throw CommunicationError(
          fmt::format("communicator: rank {} waited {} ms for {}", rank, timeout->count(), waits_for(pending)));
    }
    if (pending.left != 0 || pending.broken) throw CommunicationError(fmt::format("communicator: {}", failure_));
  }

  void check_alive() {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw CommunicationError(fmt::format("communicator: {}", failure_));
  }

  /// Nobody copies from or to this memory any more.
  void withdraw(const std::shared_ptr<Pending>& pending) {
    std::unique_lock lock(mutex_);
    const auto mine = [&](const Letter& letter) { return letter.pending == pending; };
    const auto unmatched =
        std::count_if(sends_.begin(), sends_.end(), mine) + std::count_if(receives_.begin(), receives_.end(), mine);
    sends_.remove_if(mine);
    receives_.remove_if(mine);
    pending->left -= static_cast<int>(unmatched);
    changed_.wait(lock, [&] { return pending->left == 0; });  // copies that are under way
  }

  void fail(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = reason;
    changed_.notify_all();
  }

 private:
  std::string waits_for(const Pending& pending) const {
    for (const Letter& letter : receives_) {
      if (letter.pending.get() == &pending) return fmt::format("rank {}", letter.from);
    }
    for (const Letter& letter : sends_) {
      if (letter.pending.get() == &pending) return fmt::format("rank {}", letter.to);
    }
    return "a copy";
  }

  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Letter> sends_;
  std::list<Letter> receives_;
  std::string failure_;
};

class LocalExchange final : public Exchange {
 public:
  LocalExchange(std::shared_ptr<Hub> hub, int rank, std::optional<std::chrono::milliseconds> timeout)
      : hub_(std::move(hub)), rank_(rank), timeout_(timeout) {}
  ~LocalExchange() override { hub_->withdraw(pending_); }
  LocalExchange(const LocalExchange&) = delete;
  LocalExchange& operator=(const LocalExchange&) = delete;

  void wait() override { hub_->wait(*pending_, rank_, timeout_); }
  const std::shared_ptr<Pending>& pending() const { return pending_; }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
  std::optional<std::chrono::milliseconds> timeout_;
  std::shared_ptr<Pending> pending_ = std::make_shared<Pending>();
};

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<Hub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  std::string engine() const override { return "threads"; }

  void fail(const std::string& reason) override { hub_->fail(fmt::format("rank {} failed: {}", rank_, reason)); }

 protected:
  std::unique_ptr<Exchange> post(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                                 int unique_tag) override {
    hub_->check_alive();
    auto exchange = std::make_unique<LocalExchange>(hub_, rank_, timeout());
    const auto counts = [](const auto& message) { return !message.bytes.empty(); };
    exchange->pending()->left = static_cast<int>(std::count_if(sends.begin(), sends.end(), counts) +
                                                 std::count_if(receives.begin(), receives.end(), counts));
    for (const Incoming& message : receives) {
      if (counts(message)) hub_->post({message.peer, rank_, unique_tag, {}, message.bytes, exchange->pending()}, false);
    }
    for (const Outgoing& message : sends) {
      if (counts(message)) hub_->post({rank_, message.peer, unique_tag, message.bytes, {}, exchange->pending()}, true);
    }
    return exchange;
  }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> local_communicators(int ranks) {
  const auto hub = std::make_shared<Hub>(ranks);
  std::vector<std::unique_ptr<Communicator>> all;
  all.reserve(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) all.push_back(std::make_unique<LocalCommunicator>(hub, rank));
  return all;
}

}  // namespace rondo
