// Messages between GPUs by NCCL.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "device/device_communicator.h"

namespace rondo::cuda {

/// Why NCCL cannot carry messages; nothing where it can.
std::optional<std::string> refuse_nccl();

/// ncclUniqueId. `device`: the GPU's number, for errors.
std::string make_nccl_id(int device);

/// Joins the ranks that have the same id, at the same time; the calling thread's device is the rank's, number `device`.
/// `runtime` lives as long as what it gives.
std::unique_ptr<DeviceCommunicator> join_nccl(std::shared_ptr<const DeviceRuntime> runtime, int device,
                                              const std::string& id, int rank, int ranks);

}  // namespace rondo::cuda
