// CANN's libraries, opened at run time.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "backends/ascend/acl_types.h"
#include "backends/device_backend.h"

namespace rondo::ascend {

#define RONDO_ACL_MEMBER(name, type) std::add_pointer_t<type> name = nullptr;

/// Both phases of an operator.
struct AclOperatorSymbols {
  /// aclnn<Name>GetWorkspaceSize, of whatever arguments the operator takes.
  void* get_workspace_size;
  AclStatus (*run)(void*, std::uint64_t, aclOpExecutor*, AclStream);
};

class AclLibrary {
 public:
  /// Opens libascendcl.so and libnnopbase.so as the dynamic linker finds them, and the operators' libraries. Throws
  /// Error, with what is missing.
  AclLibrary();

  RONDO_ACL_RUNTIME_FUNCTIONS(RONDO_ACL_MEMBER)
  RONDO_ACL_TENSOR_FUNCTIONS(RONDO_ACL_MEMBER)

  /// The operator in the custom libraries, else in the built-in ones; null where this version of CANN has none.
  const AclOperatorSymbols* find(const char* name) const;
  /// The same, required: throws Unsupported, naming it.
  const AclOperatorSymbols& require(const char* name) const;

  /// Throws DeviceError, with the call, the code and CANN's own words, unless `status` is success.
  void check(AclStatus status, const char* call, int device) const;

  /// What was found where, for `rondo doctor`.
  std::vector<ComponentVersion> versions() const;

 private:
  void open_operators();

  std::vector<void*> operator_libraries_;  // custom ones first
  std::vector<ComponentVersion> found_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::optional<AclOperatorSymbols>> operators_;
};

/// HCCL, which only runs of several ranks need.
struct HcclLibrary {
  /// Throws Error, with what is missing.
  HcclLibrary();

  RONDO_HCCL_FUNCTIONS(RONDO_ACL_MEMBER)
};

#undef RONDO_ACL_MEMBER

}  // namespace rondo::ascend
