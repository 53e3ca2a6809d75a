#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numeric>

#include "parallel/local_communicator.h"
#include "parallel/parallel_layout.h"
#include "rondo/error.h"
#include "support/ranks.h"

namespace rondo::test {
namespace {

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}
template <typename T>
std::span<std::byte> bytes_of(std::vector<T>& values) {
  return std::as_writable_bytes(std::span(values));
}

TEST(Communicator, CollectivesOnOneToEightRanks) {
  for (const int ranks : {1, 2, 3, 5, 8}) {
    run_ranks(ranks, [&](Communicator& world) {
      const int rank = world.rank();
      std::vector<int> sent(static_cast<std::size_t>(ranks));
      for (int to = 0; to < ranks; ++to) sent[static_cast<std::size_t>(to)] = 100 * rank + to;
      std::vector<int> received(sent.size());
      world.all_to_all(bytes_of(std::as_const(sent)), bytes_of(received));
      for (int from = 0; from < ranks; ++from) EXPECT_EQ(received[static_cast<std::size_t>(from)], 100 * from + rank);

      std::vector<float> values{static_cast<float>(rank), 1.0F, static_cast<float>(-rank)};
      world.all_reduce(values, ReduceKind::sum);
      EXPECT_EQ(values[0], static_cast<float>(ranks * (ranks - 1) / 2));
      EXPECT_EQ(values[1], static_cast<float>(ranks));
      values = {static_cast<float>(rank), 1.0F, static_cast<float>(-rank)};
      world.all_reduce(values, ReduceKind::maximum);
      EXPECT_EQ(values, (std::vector<float>{static_cast<float>(ranks - 1), 1.0F, 0.0F}));

      const std::vector<std::string> texts = world.all_gather(std::string(static_cast<std::size_t>(rank), 'x'));
      for (int from = 0; from < ranks; ++from) {
        EXPECT_EQ(texts[static_cast<std::size_t>(from)], std::string(static_cast<std::size_t>(from), 'x'));
      }
      for (int root = 0; root < ranks; ++root)
        EXPECT_EQ(world.broadcast(rank == root ? fmt::format("from {}", rank) : "", root),
                  fmt::format("from {}", root));
      world.barrier();
    });
  }
}

TEST(Communicator, UnevenPartsAndEmptyOnes) {
  run_ranks(3, [](Communicator& world) {
    // Rank r sends r * to bytes to rank `to`.
    const auto rank = static_cast<std::size_t>(world.rank());
    std::vector<std::size_t> sent_bytes;
    std::vector<std::size_t> received_bytes;
    for (std::size_t peer = 0; peer < 3; ++peer) {
      sent_bytes.push_back(rank * peer);
      received_bytes.push_back(peer * rank);
    }
    std::vector<char> sent(3 * rank, static_cast<char>('a' + rank));
    std::vector<char> received(3 * rank);
    world.all_to_all(bytes_of(std::as_const(sent)), sent_bytes, bytes_of(received), received_bytes);
    EXPECT_EQ(std::string(received.begin(), received.end()), rank == 0 ? "" : rank == 1 ? "bcc" : "bbcccc");
  });
}

TEST(Communicator, MessagesOfOneTagKeepTheirOrderAndTagsDoNotMix) {
  run_ranks(2, [](Communicator& world) {
    std::vector<int> values(4);
    if (world.rank() == 0) {
      std::iota(values.begin(), values.end(), 0);
      std::vector<std::unique_ptr<Exchange>> sends;
      for (const std::size_t i : {0, 1, 2, 3}) {
        const Outgoing message{1, std::as_bytes(std::span(values).subspan(i, 1))};
        sends.push_back(world.start({&message, 1}, {}, i < 2 ? 7 : 8));
      }
      for (auto& send : sends) send->wait();
    } else {
      std::vector<std::unique_ptr<Exchange>> receives;
      for (const std::size_t i : {2, 3, 0, 1}) {
        const Incoming message{0, std::as_writable_bytes(std::span(values).subspan(i, 1))};
        receives.push_back(world.start({}, {&message, 1}, i < 2 ? 7 : 8));
      }
      for (auto& receive : receives) receive->wait();
      EXPECT_EQ(values, (std::vector<int>{0, 1, 2, 3}));
    }
  });
}

TEST(Communicator, PartsOfPartsAreApart) {
  run_ranks(8, [](Communicator& world) {
    const auto half = world.split(world.rank() / 4);
    const auto pair = half->split(half->rank() % 2);
    const auto strided = world.split(world.rank() % 4);
    EXPECT_EQ(half->size(), 4);
    EXPECT_EQ(pair->size(), 2);
    std::vector<int> members(2);
    const int rank = world.rank();
    pair->all_gather(std::as_bytes(std::span(&rank, 1)), bytes_of(members));
    EXPECT_EQ(members, (std::vector<int>{rank / 4 * 4 + rank % 2, rank / 4 * 4 + rank % 2 + 2}));
    strided->all_gather(std::as_bytes(std::span(&rank, 1)), bytes_of(members));
    EXPECT_EQ(members, (std::vector<int>{rank % 4, rank % 4 + 4}));
  });
}

TEST(Communicator, AFailedRankIsNamedToAllWhoWait) {
  std::vector<std::string> errors(3);
  run_ranks(3, [&](Communicator& world) {
    if (world.rank() == 1) return world.fail("memory: not enough");
    try {
      world.barrier();
      world.barrier();
    } catch (const CommunicationError& error) {
      errors[static_cast<std::size_t>(world.rank())] = error.what();
    }
  });
  EXPECT_EQ(errors[0], "communicator: rank 1 failed: memory: not enough");
  EXPECT_EQ(errors[2], errors[0]);
}

TEST(Communicator, ATimeoutNamesWhoIsWaitedFor) {
  run_ranks(2, [&](Communicator& world) {
    if (world.rank() == 1) return;
    world.set_timeout(std::chrono::milliseconds(20));
    std::byte byte{};
    try {
      world.receive(1, {&byte, 1});
      ADD_FAILURE() << "nothing was sent";
    } catch (const CommunicationError& error) {
      EXPECT_STREQ(error.what(), "communicator: rank 0 waited 20 ms for rank 1");
    }
  });
}

TEST(Communicator, MessagesOfDifferentLengthAreAnError) {
  EXPECT_THROW(run_ranks(2,
                         [](Communicator& world) {
                           std::vector<char> data(world.rank() == 0 ? 3 : 4);
                           if (world.rank() == 0) return world.send(1, bytes_of(std::as_const(data)));
                           world.receive(0, bytes_of(data));
                         }),
               CommunicationError);
}

TEST(ParallelLayout, UlyssesRanksAreNeighboursAndRingsAreStrided) {
  const ParallelDegrees degrees{1, 2, 2, 2};
  run_ranks(8, [&](Communicator& world) {
    const ProcessGroups groups(world, degrees);
    if (world.rank() == 0) {
      EXPECT_EQ(groups.describe(), (std::vector<std::string>{
                                       "cfg: [0, 4] [1, 5] [2, 6] [3, 7]", "ring: [0, 2] [1, 3] [4, 6] [5, 7]",
                                       "ulysses: [0, 1] [2, 3] [4, 5] [6, 7]", "sequence: [0, 1, 2, 3] [4, 5, 6, 7]"}));
    }
    EXPECT_EQ(groups.ulysses().rank(), world.rank() % 2);
    EXPECT_EQ(groups.ring().rank(), world.rank() / 2 % 2);
    EXPECT_EQ(groups.cfg().rank(), world.rank() / 4);
    EXPECT_EQ(groups.sequence().rank(), groups.place().sequence(degrees));
  });
}

TEST(ParallelLayout, RefusesDegreesThatDoNotMakeTheWorld) {
  const auto message = [](const ParallelDegrees& degrees, int world) {
    try {
      check_degrees(degrees, world);
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message({1, 1, 1, 2}, 3),
            "parallel: data 1 x cfg 1 x ring 1 x ulysses 2 makes 2 ranks and the world has 3; both must be equal");
  EXPECT_TRUE(message({1, 3, 1, 1}, 3).starts_with("cfg-parallel: 3 is given"));
  EXPECT_TRUE(message({1, 1, 0, 1}, 1).starts_with("ring-degree: 0 is given"));
  EXPECT_EQ(message({2, 2, 3, 1}, 12), "");
}

}  // namespace
}  // namespace rondo::test
