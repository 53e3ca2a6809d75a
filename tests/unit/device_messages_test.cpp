// Messages between the test device's kind; skipped where it is the CPU, or there are too few of them.
#include <gtest/gtest.h>

#include <cstdlib>

#include "backends/device_work.h"
#include "backends/devices.h"
#include "rondo/error.h"
#include "support/devices.h"
#include "support/ranks.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

constexpr int kRanks = 3;

class DeviceMessagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (test_device().is_cpu()) GTEST_SKIP() << "no device is named";
    try {
      test_target(1, kRanks - 1);
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
};

/// What rank `from` sends rank `to` as message `number`: no two have as many bytes.
Tensor content(int from, int to, int number) {
  return random_tensor({1 + from + 5 * to + 37 * number}, DType::f32,
                       static_cast<std::uint32_t>(100 * from + 10 * to + number));
}

/// Two messages to each, in one exchange, twice.
void exchange_with_all(Communicator& world) {
  const auto device = test_target(1, world.rank()).device;
  DeviceCommunicator& peers = world.between_devices(device->runtime());
  for (int round = 0; round < 2; ++round) {
    DeviceWork work(device);
    std::vector<Tensor> tensors;
    std::vector<DeviceMessage> sends;
    std::vector<DeviceMessage> receives;
    const auto add = [&](std::vector<DeviceMessage>& messages, int peer, Tensor tensor) {
      messages.push_back({peer, tensor.as<std::byte>(), tensor.bytes()});
      tensors.push_back(std::move(tensor));
    };
    for (int number = 0; number < 2; ++number) {
      for (int peer = 0; peer < world.size(); ++peer) {
        if (peer == world.rank()) continue;
        add(sends, peer, device->upload(content(world.rank(), peer, number)));
        add(receives, peer, device->empty(content(peer, world.rank(), number).shape(), DType::f32));
      }
    }
    peers.exchange(sends, receives, work.stream());
    work.finish();
    std::size_t next = 1;
    for (int number = 0; number < 2; ++number) {
      for (int peer = 0; peer < world.size(); ++peer) {
        if (peer == world.rank()) continue;
        const Tensor received = device->download(tensors[next]);
        const Tensor expected = content(peer, world.rank(), number);
        EXPECT_TRUE(std::equal(received.as<float>(), received.as<float>() + received.elements(), expected.as<float>()))
            << peer << " to " << world.rank() << ", message " << number;
        next += 2;
      }
    }
  }
}

TEST_F(DeviceMessagesTest, ArriveInTheirOrder) { run_ranks(kRanks, exchange_with_all); }

/// All ranks fail alike, so that none waits for a message.
TEST_F(DeviceMessagesTest, FailuresAreTold) {
  if (std::getenv("EMULATED_GPUS") == nullptr) GTEST_SKIP() << "faults are the emulation's";
  for (const char* call : {"ncclGetUniqueId", "ncclCommInitRank", "ncclSend", "ncclRecv", "ncclGroupEnd"}) {
    setenv("EMULATED_NCCL_FAULT", call, 1);
    const std::string message = message_of([] { run_ranks(kRanks, exchange_with_all); });
    unsetenv("EMULATED_NCCL_FAULT");
    EXPECT_NE(message.find(std::string(call) + " failed with 3 (internal error)"), std::string::npos) << message;
    run_ranks(kRanks, exchange_with_all);
  }
}

}  // namespace
}  // namespace rondo::test
