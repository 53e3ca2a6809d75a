#include "backends/ascend/acl_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "core/env.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo::ascend {
namespace {

namespace fs = std::filesystem;

void* open_library(const std::string& file) { return dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL); }

std::string open_error() {
  const char* text = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
  return text == nullptr ? "unknown reason" : printable(text, 300);
}

void* require_library(const char* name) {
  void* const handle = open_library(name);
  if (handle == nullptr) {
    throw Error(
        fmt::format("{} cannot be opened ({}); CANN's set_env.sh sets where it is looked for", name, open_error()));
  }
  return handle;
}

template <typename Function>
void load(void* library, const char* library_name, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) throw Error(fmt::format("{} has no {}: CANN 8.0 or later is needed", library_name, name));
}

/// The folders of a list such as ASCEND_CUSTOM_OPP_PATH.
std::vector<std::string> split_path(const std::string& list) {
  std::vector<std::string> folders;
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t end = std::min(list.find(':', begin), list.size());
    if (end > begin) folders.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return folders;
}

/// Custom operators lie in the folders of ASCEND_CUSTOM_OPP_PATH and in the vendors' folders of ASCEND_OPP_PATH.
std::vector<fs::path> custom_libraries() {
  std::vector<fs::path> files;
  const auto add = [&](const fs::path& folder) {
    const fs::path file = folder / "op_api" / "lib" / "libcust_opapi.so";
    std::error_code error;
    if (fs::exists(file, error)) files.push_back(file);
  };
  for (const std::string& folder : split_path(env_value("ASCEND_CUSTOM_OPP_PATH").value_or(""))) add(folder);
  if (const auto opp = env_value("ASCEND_OPP_PATH")) {
    std::error_code error;
    std::vector<fs::path> vendors;
    for (const auto& entry : fs::directory_iterator(fs::path(*opp) / "vendors", error)) vendors.push_back(entry.path());
    std::sort(vendors.begin(), vendors.end());
    for (const fs::path& vendor : vendors) add(vendor);
  }
  return files;
}

/// Newer CANN splits libopapi.so by kind of operator.
constexpr const char* kOperatorLibraries[] = {"libopapi.so", "libopapi_nn.so", "libopapi_transformer.so",
                                              "libopapi_math.so", "libopapi_cv.so"};

}  // namespace

AclLibrary::AclLibrary() {
  void* const runtime = require_library("libascendcl.so");
  void* const tensors = require_library("libnnopbase.so");
#define RONDO_ACL_LOAD_RUNTIME(name, type) load(runtime, "libascendcl.so", #name, name);
#define RONDO_ACL_LOAD_TENSORS(name, type) load(tensors, "libnnopbase.so", #name, name);
  RONDO_ACL_RUNTIME_FUNCTIONS(RONDO_ACL_LOAD_RUNTIME)
  RONDO_ACL_TENSOR_FUNCTIONS(RONDO_ACL_LOAD_TENSORS)
#undef RONDO_ACL_LOAD_RUNTIME
#undef RONDO_ACL_LOAD_TENSORS
  open_operators();
  const AclStatus status = aclInit(nullptr);
  if (status != kAclSuccess && status != kAclRepeatInitialize) check(status, "aclInit", 0);
}

void AclLibrary::open_operators() {
  for (const fs::path& file : custom_libraries()) {
    void* const handle = open_library(file.string());
    found_.push_back({"custom operators", handle == nullptr ? "" : "found",
                      handle == nullptr ? fmt::format("{}: {}", file.string(), open_error()) : file.string()});
    if (handle != nullptr) operator_libraries_.push_back(handle);
  }
  std::string names;
  std::string reason;
  for (const char* name : kOperatorLibraries) {
    void* const handle = open_library(name);
    if (handle == nullptr) {
      if (reason.empty()) reason = open_error();
      continue;
    }
    operator_libraries_.push_back(handle);
    names += names.empty() ? name : fmt::format(", {}", name);
  }
  if (names.empty()) throw Error(fmt::format("libopapi.so cannot be opened ({}); it holds CANN's operators", reason));
  found_.push_back({"operators", "found", names});
}

const AclOperatorSymbols* AclLibrary::find(const char* name) const {
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = operators_.try_emplace(name);
  if (is_new) {
    const std::string first_phase = fmt::format("{}GetWorkspaceSize", name);
    for (void* const library : operator_libraries_) {
      void* const get_workspace_size = dlsym(library, first_phase.c_str());
      void* const run = dlsym(library, name);
      if (get_workspace_size == nullptr || run == nullptr) continue;
      place->second = {get_workspace_size, reinterpret_cast<decltype(AclOperatorSymbols::run)>(run)};
      break;
    }
  }
  return place->second ? &*place->second : nullptr;
}

const AclOperatorSymbols& AclLibrary::require(const char* name) const {
  const AclOperatorSymbols* const symbols = find(name);
  if (symbols == nullptr) throw Unsupported(fmt::format("ascend: this version of CANN has no {}", name));
  return *symbols;
}

void AclLibrary::check(AclStatus status, const char* call, int device) const {
  if (status == kAclSuccess) return;
  const char* const words = aclGetRecentErrMsg();
  throw DeviceError(fmt::format("ascend:{}: {} failed with {}{}", device, call, status,
                                words == nullptr ? "" : fmt::format(": {}", printable(words, 400))));
}

std::vector<ComponentVersion> AclLibrary::versions() const {
  std::int32_t version[3] = {0, 0, 0};
  std::vector<ComponentVersion> all;
  if (aclrtGetVersion(&version[0], &version[1], &version[2]) == kAclSuccess)
    all.push_back({"AscendCL", fmt::format("{}.{}.{}", version[0], version[1], version[2])});
  all.insert(all.end(), found_.begin(), found_.end());
  return all;
}

HcclLibrary::HcclLibrary() {
  void* const library = require_library("libhccl.so");
#define RONDO_HCCL_LOAD(name, type) load(library, "libhccl.so", #name, name);
  RONDO_HCCL_FUNCTIONS(RONDO_HCCL_LOAD)
#undef RONDO_HCCL_LOAD
}

}  // namespace rondo::ascend
