// NCCL, opened at run time: its functions by name, its types as nccl.h (2.7 and later) has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "backends/cuda/device/launches.h"

namespace rondo::cuda {

enum class NcclResult : int { success = 0, remote_error = 6, in_progress = 7 };
enum class NcclDataType : int { int8 = 0 };
using NcclComm = void*;
/// ncclUniqueId
struct NcclUniqueId {
  char bytes[128];
};

/// Throws Error where libnccl.so.2 cannot be opened or lacks a function.
struct NcclLibrary {
  NcclLibrary();

  NcclResult (*ncclGetVersion)(int* version);
  NcclResult (*ncclGetUniqueId)(NcclUniqueId* id);
  NcclResult (*ncclCommInitRank)(NcclComm* communicator, int ranks, NcclUniqueId id, int rank);
  NcclResult (*ncclCommDestroy)(NcclComm communicator);
  NcclResult (*ncclCommAbort)(NcclComm communicator);
  NcclResult (*ncclCommGetAsyncError)(NcclComm communicator, NcclResult* error);
  const char* (*ncclGetErrorString)(NcclResult result);
  NcclResult (*ncclGroupStart)();
  NcclResult (*ncclGroupEnd)();
  NcclResult (*ncclSend)(const void* memory, std::size_t count, NcclDataType dtype, int peer, NcclComm communicator,
                         StreamHandle stream);
  NcclResult (*ncclRecv)(void* memory, std::size_t count, NcclDataType dtype, int peer, NcclComm communicator,
                         StreamHandle stream);
};

/// Why NCCL cannot be used in this process; empty when it can. Opens it at the first call.
const std::string& nccl_missing();
/// Where nccl_missing() is empty.
const NcclLibrary& nccl();
/// "2.27.5"; empty where it is missing.
std::string nccl_version();

}  // namespace rondo::cuda
