#include <fmt/format.h>

#include <algorithm>

#include "parallel/mpi.h"
#include "parallel/mpi_engine.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// MPI counts in int; longer messages go in pieces.
constexpr std::size_t kLongestPiece = std::size_t{1} << 30;

template <typename Bytes, typename Post>
void in_pieces(Bytes bytes, const Post& post) {
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), kLongestPiece)))
    post(bytes.first(std::min(bytes.size(), kLongestPiece)));
}

/// The messages, nearest peer first as seen from this rank: ranks that all began with rank 0 would queue before its
/// link. Those of one peer keep their order.
template <typename Message>
std::vector<Message> staggered(std::span<const Message> messages, int rank, int size, int direction) {
  std::vector<Message> sorted(messages.begin(), messages.end());
  std::stable_sort(sorted.begin(), sorted.end(), [&](const Message& a, const Message& b) {
    const auto distance = [&](int peer) { return (direction * (peer - rank) + size) % size; };
    return distance(a.peer) < distance(b.peer);
  });
  return sorted;
}

class MpiExchange final : public Exchange {
 public:
  MpiExchange(std::shared_ptr<MpiEngine> engine, std::shared_ptr<MpiEngine::Operation> operation,
              std::optional<std::chrono::milliseconds> timeout)
      : engine_(std::move(engine)), operation_(std::move(operation)), timeout_(timeout) {}
  ~MpiExchange() override { engine_->abandon(*operation_); }
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;
  void wait() override { engine_->wait(*operation_, timeout_); }

 private:
  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<MpiEngine::Operation> operation_;
  std::optional<std::chrono::milliseconds> timeout_;
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(std::shared_ptr<MpiEngine> engine) : engine_(std::move(engine)) {}

  int rank() const override { return engine_->rank(); }
  int size() const override { return engine_->size(); }
  std::string engine() const override { return "mpi"; }

  void fail(const std::string& reason) override { engine_->fail(reason); }

 protected:
  std::unique_ptr<Exchange> post(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                                 int unique_tag) override {
    auto post = [unique_tag, sends = staggered(sends, rank(), size(), 1),
                 receives = staggered(receives, rank(), size(), -1)](auto& requests) {
      for (const Incoming& message : receives) {
        in_pieces(message.bytes, [&](std::span<std::byte> piece) {
          requests.push_back(MPI_REQUEST_NULL);
          MPI_Irecv(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, message.peer, unique_tag, MPI_COMM_WORLD,
                    &requests.back());
        });
      }
      for (const Outgoing& message : sends) {
        in_pieces(message.bytes, [&](std::span<const std::byte> piece) {
          requests.push_back(MPI_REQUEST_NULL);
          MPI_Isend(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, message.peer, unique_tag, MPI_COMM_WORLD,
                    &requests.back());
        });
      }
    };
    return std::make_unique<MpiExchange>(engine_, engine_->submit(std::move(post)), timeout());
  }

 private:
  std::shared_ptr<MpiEngine> engine_;
};

class World final : public MpiWorld {
 public:
  explicit World(std::chrono::milliseconds rank_timeout)
      : engine_(std::make_shared<MpiEngine>(rank_timeout)), communicator_(engine_) {}
  Communicator& communicator() override { return communicator_; }
  void finish() override { engine_->finish(); }

 private:
  std::shared_ptr<MpiEngine> engine_;
  MpiCommunicator communicator_;
};

}  // namespace

std::unique_ptr<MpiWorld> join_mpi(std::chrono::milliseconds rank_timeout) {
  int joined = 0;
  MPI_Initialized(&joined);
  if (joined != 0) throw Unsupported("mpi: this process has joined an MPI run already; allowed is once");
  return std::make_unique<World>(rank_timeout);
}

}  // namespace rondo
