// CANN's C interface as Rondo calls it, written down from its public headers and documents (Huawei's CANN 8.1, the
// headers in the torch-npu wheel), so that no toolkit is needed to build. tests/ascend_prototypes compares what the
// wheel's headers declare; operators' prototypes are not in it and stay unchecked.
#pragma once

#include <cstddef>
#include <cstdint>

// Opaque, as in CANN.
struct aclTensor;
struct aclTensorList;
struct aclScalar;
struct aclIntArray;
struct aclOpExecutor;

namespace rondo::ascend {

using AclStatus = std::int32_t;
using AclStream = void*;
using AclEvent = void*;
using HcclComm = void*;

constexpr AclStatus kAclSuccess = 0;
constexpr AclStatus kAclRepeatInitialize = 100002;
constexpr AclStatus kAclOutOfMemory = 207001;
constexpr AclStatus kAclDeviceOutOfMemory = 207018;

/// aclDataType
enum class AclDtype : std::int32_t {
  float32 = 0,
  float16 = 1,
  int8 = 2,
  int32 = 3,
  uint8 = 4,
  int64 = 9,
  boolean = 12,
  bfloat16 = 27,
  float8_e4m3fn = 36,
};

/// aclFormat
enum class AclFormat : std::int32_t { nchw = 0, nhwc = 1, nd = 2 };

/// aclrtMemMallocPolicy
constexpr std::int32_t kHugeFirst = 0;
/// aclrtMemcpyKind
enum class AclCopyKind : std::int32_t {
  host_to_host = 0,
  host_to_device = 1,
  device_to_host = 2,
  device_to_device = 3
};
/// aclrtMemAttr: the device's main memory
constexpr std::int32_t kHbmMemory = 1;
/// aclrtCreateEventExWithFlag: streams and the host may wait for it
constexpr std::uint32_t kEventSync = 1;

/// HcclRootInfo
struct HcclRootInfo {
  char bytes[4108];
};
/// HcclDataType
enum class HcclDtype : std::int32_t { int8 = 0, float16 = 3, float32 = 4, uint8 = 7, bfloat16 = 11 };
/// HcclSendRecvType
enum class HcclDirection : std::int32_t { send = 0, receive = 1 };
/// HcclSendRecvItem
struct HcclMessage {
  HcclDirection direction;
  void* buffer;
  std::uint64_t count;
  HcclDtype dtype;
  std::uint32_t peer;
};

/// libascendcl.so: X(name, type)
#define RONDO_ACL_RUNTIME_FUNCTIONS(X)                                                                         \
  X(aclInit, AclStatus(const char*))                                                                           \
  X(aclGetRecentErrMsg, const char*())                                                                         \
  X(aclrtGetVersion, AclStatus(std::int32_t*, std::int32_t*, std::int32_t*))                                   \
  X(aclrtGetDeviceCount, AclStatus(std::uint32_t*))                                                            \
  X(aclrtSetDevice, AclStatus(std::int32_t))                                                                   \
  X(aclrtGetSocName, const char*())                                                                            \
  X(aclrtGetMemInfo, AclStatus(std::int32_t, std::size_t*, std::size_t*))                                      \
  X(aclrtMalloc, AclStatus(void**, std::size_t, std::int32_t))                                                 \
  X(aclrtFree, AclStatus(void*))                                                                               \
  X(aclrtMallocHost, AclStatus(void**, std::size_t))                                                           \
  X(aclrtFreeHost, AclStatus(void*))                                                                           \
  X(aclrtMemcpyAsync, AclStatus(void*, std::size_t, const void*, std::size_t, AclCopyKind, AclStream))         \
  X(aclrtMemcpy2dAsync,                                                                                        \
    AclStatus(void*, std::size_t, const void*, std::size_t, std::size_t, std::size_t, AclCopyKind, AclStream)) \
  X(aclrtSynchronizeDevice, AclStatus())                                                                       \
  X(aclrtCreateStream, AclStatus(AclStream*))                                                                  \
  X(aclrtDestroyStream, AclStatus(AclStream))                                                                  \
  X(aclrtSynchronizeStream, AclStatus(AclStream))                                                              \
  X(aclrtStreamWaitEvent, AclStatus(AclStream, AclEvent))                                                      \
  X(aclrtCreateEventExWithFlag, AclStatus(AclEvent*, std::uint32_t))                                           \
  X(aclrtRecordEvent, AclStatus(AclEvent, AclStream))                                                          \
  X(aclrtSynchronizeEvent, AclStatus(AclEvent))                                                                \
  X(aclrtDestroyEvent, AclStatus(AclEvent))

/// libnnopbase.so
#define RONDO_ACL_TENSOR_FUNCTIONS(X)                                                                            \
  X(aclCreateTensor, aclTensor*(const std::int64_t*, std::uint64_t, AclDtype, const std::int64_t*, std::int64_t, \
                                AclFormat, const std::int64_t*, std::uint64_t, void*))                           \
  X(aclDestroyTensor, AclStatus(const aclTensor*))                                                               \
  X(aclCreateScalar, aclScalar*(void*, AclDtype))                                                                \
  X(aclDestroyScalar, AclStatus(const aclScalar*))                                                               \
  X(aclCreateIntArray, aclIntArray*(const std::int64_t*, std::uint64_t))                                         \
  X(aclDestroyIntArray, AclStatus(const aclIntArray*))                                                           \
  X(aclCreateTensorList, aclTensorList*(const aclTensor* const*, std::uint64_t))                                 \
  X(aclDestroyTensorList, AclStatus(const aclTensorList*))                                                       \
  X(aclDestroyAclOpExecutor, AclStatus(aclOpExecutor*))

/// libhccl.so
#define RONDO_HCCL_FUNCTIONS(X)                                                                    \
  X(HcclGetRootInfo, AclStatus(HcclRootInfo*))                                                     \
  X(HcclCommInitRootInfo, AclStatus(std::uint32_t, const HcclRootInfo*, std::uint32_t, HcclComm*)) \
  X(HcclCommDestroy, AclStatus(HcclComm))                                                          \
  X(HcclBatchSendRecv, AclStatus(HcclMessage*, std::uint32_t, HcclComm, AclStream))                \
  X(HcclGetErrorString, const char*(AclStatus))

}  // namespace rondo::ascend
