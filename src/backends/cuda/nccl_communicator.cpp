#include "backends/cuda/nccl_communicator.h"

#include <fmt/format.h>

#include <cstring>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "backends/cuda/nccl_library.h"
#include "core/log.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

/// Throws DeviceError, with the call, the code and NCCL's own words.
void check(NcclResult result, const char* call, int device) {
  if (result == NcclResult::success) return;
  const char* const meaning = nccl().ncclGetErrorString(result);
  throw DeviceError(fmt::format("cuda:{}: {} failed with {} ({})", device, call, static_cast<int>(result),
                                meaning == nullptr ? "unknown" : printable(meaning, 200)));
}

class NcclCommunicator final : public DeviceCommunicator {
 public:
  NcclCommunicator(std::shared_ptr<const DeviceRuntime> runtime, int device, const std::string& id, int rank, int ranks)
      : runtime_(std::move(runtime)), device_(device) {
    NcclUniqueId unique{};
    if (id.size() != sizeof unique.bytes)
      throw CommunicationError(fmt::format("nccl: the id has {} bytes; it needs {}", id.size(), sizeof unique.bytes));
    std::memcpy(unique.bytes, id.data(), id.size());
    check(nccl().ncclCommInitRank(&communicator_, ranks, unique, rank), "ncclCommInitRank", device_);
  }
  /// Destroying waits for what NCCL has under way: after a failure, that might be for ever. Streams were waited for
  /// before; a peer that is gone shows there first, and MPI's watch ends the process.
  ~NcclCommunicator() override {
    NcclResult failure = NcclResult::success;
    const bool asked = nccl().ncclCommGetAsyncError(communicator_, &failure) == NcclResult::success;
    failed_ = failed_ || !asked || failure != NcclResult::success;
    const NcclResult result = failed_ ? nccl().ncclCommAbort(communicator_) : nccl().ncclCommDestroy(communicator_);
    try {
      check(result, failed_ ? "ncclCommAbort" : "ncclCommDestroy", device_);
    } catch (const std::exception& error) {
      log(LogLevel::warning, "{}", error.what());
    }
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  std::string engine() const override { return "nccl"; }

  void exchange(std::span<const DeviceMessage> sends, std::span<const DeviceMessage> receives,
                DeviceStream& stream) override {
    const StreamHandle handle = handle_of(stream);
    try {
      check(nccl().ncclGroupStart(), "ncclGroupStart", device_);
      NcclResult posted = NcclResult::success;
      const char* call = nullptr;
      for (const DeviceMessage& m : sends) {
        if (posted != NcclResult::success) break;
        call = "ncclSend";
        posted = nccl().ncclSend(m.memory, m.bytes, NcclDataType::int8, m.peer, communicator_, handle);
      }
      for (const DeviceMessage& m : receives) {
        if (posted != NcclResult::success) break;
        call = "ncclRecv";
        posted = nccl().ncclRecv(m.memory, m.bytes, NcclDataType::int8, m.peer, communicator_, handle);
      }
      const NcclResult ended = nccl().ncclGroupEnd();  // also after a failure: the group is the thread's
      check(posted, call, device_);
      check(ended, "ncclGroupEnd", device_);
    } catch (const DeviceError&) {
      failed_ = true;
      throw;
    }
  }

 private:
  std::shared_ptr<const DeviceRuntime> runtime_;
  int device_;
  NcclComm communicator_ = nullptr;
  bool failed_ = false;
};

}  // namespace

std::optional<std::string> refuse_nccl() {
  if (!nccl_missing().empty()) return fmt::format("NCCL: {}", nccl_missing());
  return std::nullopt;
}

std::string make_nccl_id(int device) {
  if (const auto refusal = refuse_nccl()) throw Unsupported(*refusal);
  NcclUniqueId id{};
  check(nccl().ncclGetUniqueId(&id), "ncclGetUniqueId", device);
  return {id.bytes, sizeof id.bytes};
}

std::unique_ptr<DeviceCommunicator> join_nccl(std::shared_ptr<const DeviceRuntime> runtime, int device,
                                              const std::string& id, int rank, int ranks) {
  if (const auto refusal = refuse_nccl()) throw Unsupported(*refusal);
  return std::make_unique<NcclCommunicator>(std::move(runtime), device, id, rank, ranks);
}

}  // namespace rondo::cuda
