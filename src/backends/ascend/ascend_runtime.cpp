#include "backends/ascend/ascend_runtime.h"

#include <algorithm>

#include "backends/ascend/hccl_communicator.h"
#include "core/env.h"
#include "core/log.h"
#include "rondo/error.h"

namespace rondo::ascend {
namespace {

AclStream handle_of(DeviceStream& stream) { return static_cast<AscendStream&>(stream).handle(); }

/// A failure where nobody can be told but the log.
void note(const AclLibrary& library, AclStatus status, const char* call, int device) noexcept {
  try {
    library.check(status, call, device);
  } catch (const std::exception& error) {
    log(LogLevel::warning, "{}", error.what());
  }
}

class AscendEvent final : public DeviceEvent {
 public:
  explicit AscendEvent(const AscendRuntime& runtime) : runtime_(runtime) {
    runtime.use();
    check(runtime.library().aclrtCreateEventExWithFlag(&handle_, kEventSync), "aclrtCreateEventExWithFlag");
  }
  ~AscendEvent() override {
    note(runtime_.library(), runtime_.library().aclrtDestroyEvent(handle_), "aclrtDestroyEvent", runtime_.index());
  }
  AscendEvent(const AscendEvent&) = delete;
  AscendEvent& operator=(const AscendEvent&) = delete;

  void record(DeviceStream& stream) override {
    runtime_.use();
    check(runtime_.library().aclrtRecordEvent(handle_, handle_of(stream)), "aclrtRecordEvent");
  }
  void hold_back(DeviceStream& stream) override {
    runtime_.use();
    check(runtime_.library().aclrtStreamWaitEvent(handle_of(stream), handle_), "aclrtStreamWaitEvent");
  }
  void synchronize() override {
    runtime_.use();
    check(runtime_.library().aclrtSynchronizeEvent(handle_), "aclrtSynchronizeEvent");
  }

 private:
  void check(AclStatus status, const char* call) const { runtime_.library().check(status, call, runtime_.index()); }

  const AscendRuntime& runtime_;
  AclEvent handle_ = nullptr;
};

AclCopyKind acl_kind(CopyKind kind) {
  switch (kind) {
    case CopyKind::to_device: return AclCopyKind::host_to_device;
    case CopyKind::to_host: return AclCopyKind::device_to_host;
    case CopyKind::on_device: return AclCopyKind::device_to_device;
  }
  return AclCopyKind::device_to_device;
}

}  // namespace

AscendRuntime::AscendRuntime(std::shared_ptr<const AclLibrary> library, int index)
    : library_(std::move(library)),
      index_(index),
      soc_name_([this] {
        use();
        const char* name = library_->aclrtGetSocName();
        return std::string(name == nullptr ? "" : name);
      }()),
      capabilities_(soc_capabilities(soc_name_)) {}

void AscendRuntime::use() const {
  // Setting the device that is set costs as much as asking which it is.
  library_->check(library_->aclrtSetDevice(index_), "aclrtSetDevice", index_);
}

DeviceInfo AscendRuntime::info() const {
  use();
  std::size_t free = 0;
  std::size_t total = 0;
  library_->check(library_->aclrtGetMemInfo(kHbmMemory, &free, &total), "aclrtGetMemInfo", index_);
  return {{DeviceKind::ascend, index_}, soc_name_, total, free};
}

std::string AscendRuntime::physical_id() const {
  // The driver gives a process the devices that this lists, numbered from 0.
  const std::string visible = env_value("ASCEND_RT_VISIBLE_DEVICES").value_or("");
  std::size_t begin = 0;
  for (int i = 0; i < index_ && begin < visible.size(); ++i)
    begin = std::min(visible.find(',', begin), visible.size()) + 1;
  if (begin >= visible.size()) return std::to_string(index_);
  return visible.substr(begin, std::min(visible.find(',', begin), visible.size()) - begin);
}

void* AscendRuntime::allocate(std::size_t bytes) {
  use();
  void* memory = nullptr;
  const AclStatus status = library_->aclrtMalloc(&memory, bytes, kHugeFirst);
  if (status == kAclOutOfMemory || status == kAclDeviceOutOfMemory) return nullptr;
  library_->check(status, "aclrtMalloc", index_);
  return memory;
}

void AscendRuntime::release(void* memory) noexcept {
  note(*library_, library_->aclrtSetDevice(index_), "aclrtSetDevice", index_);
  note(*library_, library_->aclrtFree(memory), "aclrtFree", index_);
}

std::shared_ptr<void> AscendRuntime::allocate_pinned(std::size_t bytes) {
  use();
  void* memory = nullptr;
  library_->check(library_->aclrtMallocHost(&memory, bytes), "aclrtMallocHost", index_);
  return {memory, [library = library_, index = index_](void* host) {
            note(*library, library->aclrtSetDevice(index), "aclrtSetDevice", index);
            note(*library, library->aclrtFreeHost(host), "aclrtFreeHost", index);
          }};
}

void AscendRuntime::synchronize() {
  use();
  library_->check(library_->aclrtSynchronizeDevice(), "aclrtSynchronizeDevice", index_);
}

std::unique_ptr<DeviceStream> AscendRuntime::make_stream() { return std::make_unique<AscendStream>(*this); }

std::unique_ptr<DeviceEvent> AscendRuntime::make_event() { return std::make_unique<AscendEvent>(*this); }

void AscendRuntime::copy(const RowCopy& rows, CopyKind kind, DeviceStream& stream) {
  use();
  constexpr std::size_t kWidest = 5'000'000;  // of aclrtMemcpy2dAsync, in bytes
  constexpr std::size_t kMostRows = 5 << 20;
  const AclCopyKind acl = acl_kind(kind);
  const bool in_rows = rows.rows > 1 && rows.width <= kWidest;
  const std::size_t step = in_rows ? kMostRows : 1;
  for (std::size_t row = 0; row < rows.rows; row += step) {
    auto* const to = static_cast<std::byte*>(rows.to) + row * rows.to_pitch;
    const auto* const from = static_cast<const std::byte*>(rows.from) + row * rows.from_pitch;
    if (in_rows) {
      library_->check(library_->aclrtMemcpy2dAsync(to, rows.to_pitch, from, rows.from_pitch, rows.width,
                                                   std::min(step, rows.rows - row), acl, handle_of(stream)),
                      "aclrtMemcpy2dAsync", index_);
    } else {
      library_->check(library_->aclrtMemcpyAsync(to, rows.width, from, rows.width, acl, handle_of(stream)),
                      "aclrtMemcpyAsync", index_);
    }
  }
}

std::optional<std::string> AscendRuntime::refuse_messages() const { return refuse_hccl(capabilities_); }

std::string AscendRuntime::make_meeting_point() { return make_hccl_root(*this); }

std::unique_ptr<DeviceCommunicator> AscendRuntime::join(const std::string& meeting_point, int rank, int ranks) {
  return join_hccl(shared_from_this(), meeting_point, rank, ranks);
}

AscendStream::AscendStream(const AscendRuntime& runtime) : runtime_(runtime) {
  runtime.use();
  runtime.library().check(runtime.library().aclrtCreateStream(&handle_), "aclrtCreateStream", runtime.index());
}

AscendStream::~AscendStream() {
  note(runtime_.library(), runtime_.library().aclrtSetDevice(runtime_.index()), "aclrtSetDevice", runtime_.index());
  // What an earlier failure left: the stream may not go with work in it. Who gave it the work was told.
  static_cast<void>(runtime_.library().aclrtSynchronizeStream(handle_));
  note(runtime_.library(), runtime_.library().aclrtDestroyStream(handle_), "aclrtDestroyStream", runtime_.index());
}

void AscendStream::synchronize() {
  runtime_.use();
  runtime_.library().check(runtime_.library().aclrtSynchronizeStream(handle_), "aclrtSynchronizeStream",
                           runtime_.index());
}

}  // namespace rondo::ascend
