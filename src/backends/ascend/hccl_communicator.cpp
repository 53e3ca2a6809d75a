#include "backends/ascend/hccl_communicator.h"

#include <fmt/format.h>

#include <cstring>
#include <map>
#include <vector>

#include "core/log.h"
#include "core/opened_library.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo::ascend {
namespace {

const OpenedLibrary<HcclLibrary>& opened_hccl() { return OpenedLibrary<HcclLibrary>::get(); }

/// Throws DeviceError, with the call, the code and HCCL's and CANN's own words.
void check(const AscendRuntime& runtime, AclStatus status, const char* call) {
  if (status == kAclSuccess) return;
  const char* const meaning = opened_hccl().library->HcclGetErrorString(status);
  const char* const words = runtime.library().aclGetRecentErrMsg();
  throw DeviceError(fmt::format("ascend:{}: {} failed with {} ({}){}", runtime.index(), call, status,
                                meaning == nullptr ? "unknown" : printable(meaning, 100),
                                words == nullptr ? "" : fmt::format(": {}", printable(words, 400))));
}

class HcclCommunicator final : public DeviceCommunicator {
 public:
  HcclCommunicator(std::shared_ptr<const AscendRuntime> runtime, const std::string& root, int rank, int ranks)
      : runtime_(std::move(runtime)) {
    HcclRootInfo info{};
    if (root.size() != sizeof info.bytes) {
      throw CommunicationError(fmt::format("hccl: the root has {} bytes; it needs {}", root.size(), sizeof info.bytes));
    }
    std::memcpy(info.bytes, root.data(), root.size());
    runtime_->use();
    check(*runtime_,
          library().HcclCommInitRootInfo(static_cast<std::uint32_t>(ranks), &info, static_cast<std::uint32_t>(rank),
                                         &communicator_),
          "HcclCommInitRootInfo");
  }
  ~HcclCommunicator() override {
    try {
      runtime_->use();
      check(*runtime_, library().HcclCommDestroy(communicator_), "HcclCommDestroy");
    } catch (const std::exception& error) {
      log(LogLevel::warning, "{}", error.what());
    }
  }
  HcclCommunicator(const HcclCommunicator&) = delete;
  HcclCommunicator& operator=(const HcclCommunicator&) = delete;

  std::string engine() const override { return "hccl"; }

  /// One batch takes a message a peer and direction, as HcclBatchSendRecv's page says: further ones come in batches of
  /// their own.
  void exchange(std::span<const DeviceMessage> sends, std::span<const DeviceMessage> receives,
                DeviceStream& stream) override {
    std::vector<std::vector<HcclMessage>> batches;
    const auto add = [&](std::span<const DeviceMessage> messages, HcclDirection direction) {
      std::map<int, std::size_t> turn;
      for (const DeviceMessage& m : messages) {
        const std::size_t batch = turn[m.peer]++;
        if (batch == batches.size()) batches.emplace_back();
        batches[batch].push_back({direction, m.memory, m.bytes, HcclDtype::int8, static_cast<std::uint32_t>(m.peer)});
      }
    };
    add(sends, HcclDirection::send);
    add(receives, HcclDirection::receive);
    runtime_->use();
    for (std::vector<HcclMessage>& batch : batches) {
      check(*runtime_,
            library().HcclBatchSendRecv(batch.data(), static_cast<std::uint32_t>(batch.size()), communicator_,
                                        static_cast<AscendStream&>(stream).handle()),
            "HcclBatchSendRecv");
    }
  }

 private:
  static const HcclLibrary& library() { return *opened_hccl().library; }

  std::shared_ptr<const AscendRuntime> runtime_;
  HcclComm communicator_ = nullptr;
};

}  // namespace

const std::string& hccl_missing() { return opened_hccl().missing; }

std::optional<std::string> refuse_hccl(const SocCapabilities& capabilities) {
  if (!capabilities.messages) return fmt::format("HCCL has no HcclBatchSendRecv on {}", capabilities.name);
  if (opened_hccl().library == nullptr) return fmt::format("HCCL: {}", opened_hccl().missing);
  return std::nullopt;
}

std::string make_hccl_root(const AscendRuntime& runtime) {
  if (const auto refusal = refuse_hccl(runtime.capabilities())) throw Unsupported(*refusal);
  HcclRootInfo info{};
  runtime.use();
  check(runtime, opened_hccl().library->HcclGetRootInfo(&info), "HcclGetRootInfo");
  return {info.bytes, sizeof info.bytes};
}

std::unique_ptr<DeviceCommunicator> join_hccl(std::shared_ptr<const AscendRuntime> runtime, const std::string& root,
                                              int rank, int ranks) {
  if (const auto refusal = refuse_hccl(runtime->capabilities())) throw Unsupported(*refusal);
  return std::make_unique<HcclCommunicator>(std::move(runtime), root, rank, ranks);
}

}  // namespace rondo::ascend
