// Messages between NPUs by HCCL.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backends/ascend/ascend_runtime.h"
#include "device/device_communicator.h"

namespace rondo::ascend {

/// Why HCCL cannot be opened; empty when it can.
const std::string& hccl_missing();

/// Why HCCL cannot carry messages between such chips; nothing where it can.
std::optional<std::string> refuse_hccl(const SocCapabilities& capabilities);

/// HcclRootInfo, made on the runtime's device.
std::string make_hccl_root(const AscendRuntime& runtime);

/// Joins the ranks that have the same root, at the same time.
std::unique_ptr<DeviceCommunicator> join_hccl(std::shared_ptr<const AscendRuntime> runtime, const std::string& root,
                                              int rank, int ranks);

}  // namespace rondo::ascend
