#include "parallel/world.h"

#include <fmt/format.h>

#include "parallel/local_communicator.h"
#include "parallel/mpi.h"
#include "rondo/error.h"

namespace rondo {
namespace {

class MpiRank final : public ParallelWorld::Implementation {
 public:
  explicit MpiRank(std::chrono::milliseconds rank_timeout) : world_(rondo::join_mpi(rank_timeout)) {}
  Communicator& communicator() override { return world_->communicator(); }
  void finish() override { world_->finish(); }

 private:
  std::unique_ptr<MpiWorld> world_;
};

class ThreadRank final : public ParallelWorld::Implementation {
 public:
  explicit ThreadRank(std::unique_ptr<Communicator> communicator) : communicator_(std::move(communicator)) {}
  ThreadRank(const ThreadRank&) = delete;
  ThreadRank& operator=(const ThreadRank&) = delete;
  ~ThreadRank() override {
    if (!finished_) communicator_->fail("it ended early");
  }
  Communicator& communicator() override { return *communicator_; }
  void finish() override {
    communicator_->barrier();
    finished_ = true;
  }

 private:
  std::unique_ptr<Communicator> communicator_;
  bool finished_ = false;
};

}  // namespace

std::shared_ptr<ParallelWorld> ParallelWorld::join_mpi(std::chrono::milliseconds rank_timeout) {
  if (rank_timeout < std::chrono::seconds(1) || rank_timeout > std::chrono::hours(24)) {
    throw InvalidArgument(
        fmt::format("rank-timeout: {} ms is given; allowed is 1 second to 24 hours", rank_timeout.count()));
  }
  return std::make_shared<ParallelWorld>(std::make_unique<MpiRank>(rank_timeout));
}

std::vector<std::shared_ptr<ParallelWorld>> ParallelWorld::threads(int ranks) {
  constexpr int kMostThreads = 1024;
  if (ranks < 1 || ranks > kMostThreads)
    throw InvalidArgument(fmt::format("ranks: {} is given; allowed is 1 to {}", ranks, kMostThreads));
  std::vector<std::shared_ptr<ParallelWorld>> worlds;
  for (auto& communicator : local_communicators(ranks))
    worlds.push_back(std::make_shared<ParallelWorld>(std::make_unique<ThreadRank>(std::move(communicator))));
  return worlds;
}

ParallelWorld::ParallelWorld(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}
ParallelWorld::~ParallelWorld() = default;

int ParallelWorld::rank() const { return implementation_->communicator().rank(); }
int ParallelWorld::size() const { return implementation_->communicator().size(); }
void ParallelWorld::fail(const std::string& reason) { implementation_->communicator().fail(reason); }
void ParallelWorld::finish() { implementation_->finish(); }

}  // namespace rondo
