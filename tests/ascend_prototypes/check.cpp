// Compiled, never run: the prototypes that Rondo wrote down against those of the headers in the torch-npu wheel. Each
// parameter must be of the same kind and size: a pointer, or a number of as many bytes.
#include <acl/acl.h>

#include <cstddef>
#include <type_traits>

#include "third_party/hccl/inc/hccl/hccl.h"

#include "acl_tensor_typedefs.h"  // made by check.sh

#include "backends/ascend/acl_types.h"

namespace {

template <typename Theirs, typename Ours>
constexpr bool kSame = std::is_pointer_v<Theirs> == std::is_pointer_v<Ours>&& std::is_floating_point_v<Theirs> ==
                           std::is_floating_point_v<Ours> &&
                       sizeof(Theirs) == sizeof(Ours);

template <typename Theirs, typename Ours>
constexpr bool kSameFunction = false;
template <typename TheirResult, typename... Theirs, typename OurResult, typename... Ours>
requires(sizeof...(Theirs) ==
         sizeof...(Ours)) constexpr bool kSameFunction<TheirResult(Theirs...), OurResult(Ours...)> =
    kSame<TheirResult, OurResult> && (kSame<Theirs, Ours> && ...);

#define CHECK(name, type) static_assert(kSameFunction<decltype(::name), rondo::ascend::Prototype_##name>, #name);
#define DECLARE(name, type) using Prototype_##name = type;
}  // namespace
namespace rondo::ascend {
RONDO_ACL_RUNTIME_FUNCTIONS(DECLARE)
RONDO_HCCL_FUNCTIONS(DECLARE)
RONDO_ACL_TENSOR_FUNCTIONS(DECLARE)
}  // namespace rondo::ascend
namespace {
RONDO_ACL_RUNTIME_FUNCTIONS(CHECK)
RONDO_HCCL_FUNCTIONS(CHECK)

// aclDestroyAclOpExecutor is not among torch-npu's typedefs.
using _aclDestroyAclOpExecutor = int (*)(aclOpExecutor*);
#define CHECK_TYPEDEF(name, type) \
  static_assert(kSameFunction<std::remove_pointer_t<_##name>, rondo::ascend::Prototype_##name>, #name);
RONDO_ACL_TENSOR_FUNCTIONS(CHECK_TYPEDEF)

using rondo::ascend::AclDtype;
static_assert(static_cast<int>(AclDtype::float32) == ACL_FLOAT && static_cast<int>(AclDtype::float16) == ACL_FLOAT16 &&
              static_cast<int>(AclDtype::int8) == ACL_INT8 && static_cast<int>(AclDtype::int32) == ACL_INT32 &&
              static_cast<int>(AclDtype::uint8) == ACL_UINT8 && static_cast<int>(AclDtype::int64) == ACL_INT64 &&
              static_cast<int>(AclDtype::boolean) == ACL_BOOL && static_cast<int>(AclDtype::bfloat16) == ACL_BF16 &&
              static_cast<int>(AclDtype::float8_e4m3fn) == ACL_FLOAT8_E4M3FN);
using rondo::ascend::AclFormat;
static_assert(static_cast<int>(AclFormat::nchw) == ACL_FORMAT_NCHW && static_cast<int>(AclFormat::nd) == ACL_FORMAT_ND);
using rondo::ascend::AclCopyKind;
static_assert(static_cast<int>(AclCopyKind::host_to_device) == ACL_MEMCPY_HOST_TO_DEVICE &&
              static_cast<int>(AclCopyKind::device_to_host) == ACL_MEMCPY_DEVICE_TO_HOST &&
              static_cast<int>(AclCopyKind::device_to_device) == ACL_MEMCPY_DEVICE_TO_DEVICE);
static_assert(rondo::ascend::kHugeFirst == ACL_MEM_MALLOC_HUGE_FIRST && rondo::ascend::kHbmMemory == ACL_HBM_MEM &&
              rondo::ascend::kEventSync == ACL_EVENT_SYNC);
static_assert(rondo::ascend::kAclRepeatInitialize == ACL_ERROR_REPEAT_INITIALIZE &&
              rondo::ascend::kAclOutOfMemory == ACL_ERROR_RT_MEMORY_ALLOCATION);

using rondo::ascend::HcclDtype;
static_assert(static_cast<int>(HcclDtype::float16) == HCCL_DATA_TYPE_FP16 &&
              static_cast<int>(HcclDtype::float32) == HCCL_DATA_TYPE_FP32 &&
              static_cast<int>(HcclDtype::uint8) == HCCL_DATA_TYPE_UINT8 &&
              static_cast<int>(HcclDtype::bfloat16) == HCCL_DATA_TYPE_BFP16);
static_assert(sizeof(rondo::ascend::HcclRootInfo) == sizeof(HcclRootInfo) &&
              sizeof(rondo::ascend::HcclMessage) == sizeof(HcclSendRecvItem) &&
              offsetof(rondo::ascend::HcclMessage, peer) == offsetof(HcclSendRecvItem, remoteRank));

}  // namespace
