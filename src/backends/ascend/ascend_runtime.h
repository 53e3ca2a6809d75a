// One NPU: memory, streams, events and copies by AscendCL.
#pragma once

#include "backends/ascend/acl_library.h"
#include "backends/ascend/soc_generation.h"
#include "device/device_runtime.h"

namespace rondo::ascend {

class AscendRuntime final : public DeviceRuntime, public std::enable_shared_from_this<AscendRuntime> {
 public:
  AscendRuntime(std::shared_ptr<const AclLibrary> library, int index);

  const AclLibrary& library() const { return *library_; }
  const SocCapabilities& capabilities() const { return capabilities_; }
  int index() const { return index_; }
  /// Makes the device the calling thread's: AscendCL keeps a current one for each.
  void use() const;

  DeviceInfo info() const override;
  std::string physical_id() const override;
  bool has_bf16() const override { return capabilities_.bf16; }
  bool keeps_f32() const override { return capabilities_.f32_products; }
  void* allocate(std::size_t bytes) override;
  void release(void* memory) noexcept override;
  std::shared_ptr<void> allocate_pinned(std::size_t bytes) override;
  void synchronize() override;
  std::unique_ptr<DeviceStream> make_stream() override;
  std::unique_ptr<DeviceEvent> make_event() override;
  void copy(const RowCopy& rows, CopyKind kind, DeviceStream& stream) override;
  std::optional<std::string> refuse_messages() const override;
  std::string make_meeting_point() override;
  std::unique_ptr<DeviceCommunicator> join(const std::string& meeting_point, int rank, int ranks) override;

 private:
  std::shared_ptr<const AclLibrary> library_;
  int index_;
  std::string soc_name_;
  const SocCapabilities& capabilities_;
};

class AscendStream final : public DeviceStream {
 public:
  explicit AscendStream(const AscendRuntime& runtime);
  ~AscendStream() override;
  AscendStream(const AscendStream&) = delete;
  AscendStream& operator=(const AscendStream&) = delete;

  void synchronize() override;
  AclStream handle() const { return handle_; }
  const AscendRuntime& runtime() const { return runtime_; }

 private:
  const AscendRuntime& runtime_;  // outlives its streams
  AclStream handle_ = nullptr;
};

}  // namespace rondo::ascend
